/* Allocations that fail, by absurd sizes, bad arguments and a limit on the address space: none leaves a trace, the
 * blocks they were to replace stay, and what comes after them is booked as ever.
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/resource.h>

enum { SURVIVOR, ABSURD, INVALID, LIMITED, AFTER, SITES };

static struct site sites[SITES] = {
    SITE(leak_survivor), SITE(fail_absurdly), SITE(fail_invalidly), SITE(fail_by_limit), SITE(leak_after),
};

static volatile size_t huge = (size_t)1 << 62;
static volatile size_t odd = 24;
static void *kept[256];
static size_t n_kept;

SITE_FN static void *leak_survivor(size_t size)
{
    void *p = malloc(size);
    victim_require(p != NULL, "malloc failed");
    book(&sites[SURVIVOR], size);
    return kept[n_kept++] = p;
}

SITE_FN static void *leak_after(size_t size)
{
    void *p = calloc(1, size);
    victim_require(p != NULL, "calloc failed");
    book(&sites[AFTER], size);
    return kept[n_kept++] = p;
}

SITE_FN static void fail_absurdly(void *block)
{
    void *p = (void *)1;
    victim_require(malloc(huge) == NULL, "malloc(2^62)");
    victim_require(calloc(huge, 2) == NULL, "calloc(2^62, 2)");
    victim_require(calloc(huge, 8) == NULL, "calloc overflows");
    victim_require(realloc(block, huge) == NULL, "realloc(p, 2^62)");
    victim_require(realloc(NULL, huge) == NULL, "realloc(NULL, 2^62)");
    victim_require(reallocarray(block, huge, 8) == NULL, "reallocarray overflows");
    victim_require(posix_memalign(&p, 64, huge) == ENOMEM, "posix_memalign(2^62)");
    victim_require(aligned_alloc(64, huge) == NULL, "aligned_alloc(2^62)");
    victim_require(valloc(huge) == NULL, "valloc(2^62)");
    KEEP_FRAME();
}

/* An alignment that is no power of two: posix_memalign must leave its argument alone, and so must its observer. */
SITE_FN static void fail_invalidly(void *block)
{
    void *p = block;
    victim_require(posix_memalign(&p, odd, 100) == EINVAL, "posix_memalign(24)");
    victim_require(p == block, "posix_memalign wrote on failure");
    KEEP_FRAME();
}

SITE_FN static void fail_by_limit(void *block)
{
    void *p = NULL;
    const size_t size = (size_t)64 << 20;
    victim_require(malloc(size) == NULL, "malloc beyond the limit");
    victim_require(calloc(1, size) == NULL, "calloc beyond the limit");
    victim_require(realloc(block, size) == NULL, "realloc beyond the limit");
    victim_require(posix_memalign(&p, 4096, size) == ENOMEM, "posix_memalign beyond the limit");
    KEEP_FRAME();
}

/* Bytes of address space in use, as /proc/self/statm has it. */
static size_t address_space(void)
{
    char text[128];
    size_t pages;
    ssize_t n;
    int fd = open("/proc/self/statm", O_RDONLY);
    n = read(fd, text, sizeof text - 1);
    victim_require(n > 0, "no /proc/self/statm");
    close(fd);
    text[n] = 0;
    pages = strtoul(text, NULL, 10);
    return pages * (size_t)getpagesize();
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    for (size_t i = 1; i <= 10; i++) {
        void *survivor = leak_survivor(60 * i);
        fail_absurdly(survivor);
        fail_invalidly(survivor);
        leak_after(5 * i);
    }

    struct rlimit limit = {0, 0};
    limit.rlim_cur = limit.rlim_max = address_space() + ((size_t)16 << 20);
    victim_require(setrlimit(RLIMIT_AS, &limit) == 0, "setrlimit");
    for (size_t i = 1; i <= 10; i++) {
        void *survivor = leak_survivor(1000 * i);
        fail_by_limit(survivor);
        leak_after(7 * i);
    }

    /* The blocks whose realloc failed can still be freed. */
    for (size_t i = 0; i < 4; i++) {
        free(kept[2 * i]);
        unbook(&sites[SURVIVOR], 60 * (i + 1));
    }
    report_all(sites, SITES);
    victim_end();
    return 0;
}
