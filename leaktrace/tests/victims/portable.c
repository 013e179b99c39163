/* Allocation functions that every C library and every replacement of its malloc has: some blocks of each stay, some go. */
#include "victim.h"

#include <malloc.h>

#define ROUNDS 24

enum { MALLOC, CALLOC, REALLOC, GROWN, POSIX_MEMALIGN, ALIGNED_ALLOC, MEMALIGN, BIG, REUSED, SITES };

static struct site sites[SITES] = {
    SITE(leak_malloc),        SITE(leak_calloc),   SITE(leak_realloc), SITE(leak_grown), SITE(leak_posix_memalign),
    SITE(leak_aligned_alloc), SITE(leak_memalign), SITE(leak_big),     SITE(leak_reused),
};

static void *kept[SITES][ROUNDS];

SITE_FN static void *leak_malloc(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_calloc(size_t n, size_t size)
{
    void *p = calloc(n, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_realloc(size_t size)
{
    void *p = realloc(NULL, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_grown(void *block, size_t size)
{
    void *p = realloc(block, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_posix_memalign(size_t alignment, size_t size)
{
    void *p = NULL;
    victim_require(posix_memalign(&p, alignment, size) == 0, "posix_memalign failed");
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_aligned_alloc(size_t alignment, size_t size)
{
    void *p = aligned_alloc(alignment, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_memalign(size_t alignment, size_t size)
{
    void *p = memalign(alignment, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_big(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

/* The same address again and again, as allocators do: each time another block. */
SITE_FN static void *leak_reused(int times, size_t size)
{
    for (int i = 0; i < times; i++) {
        void *p = malloc(size);
        victim_require(p != NULL, "malloc failed");
        free(p);
    }
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

static void keep(int site, int round, void *p, size_t size)
{
    victim_require(p != NULL, "an allocation that must succeed failed");
    book(&sites[site], size);
    if (round % 3 != 0) {
        free(p);
        unbook(&sites[site], size);
    } else {
        kept[site][round] = p;
    }
    free(NULL);
}

/* A way to the leaks, so that there is a stack to see. */
SITE_FN static void work_through(int i)
{
    size_t n = (size_t)i + 1;
    keep(MALLOC, i, leak_malloc(24 * n), 24 * n);
    keep(CALLOC, i, leak_calloc(n, 40), n * 40);
    void *small = leak_realloc(56 * n);
    book(&sites[REALLOC], 56 * n);
    if (i % 2 == 0) {
        keep(GROWN, i, leak_grown(small, 3000 * n), 3000 * n);
        unbook(&sites[REALLOC], 56 * n);
    } else {
        kept[REALLOC][i] = small;
    }
    keep(POSIX_MEMALIGN, i, leak_posix_memalign((size_t)8 << i % 8, 100 * n), 100 * n);
    keep(ALIGNED_ALLOC, i, leak_aligned_alloc((size_t)16 << i % 4, 128 * n), 128 * n);
    keep(MEMALIGN, i, leak_memalign((size_t)16 << i % 6, 33 * n), 33 * n);
    keep(BIG, i, leak_big(300000 + n * 4096), 300000 + n * 4096);
    void *reused = leak_reused(20, 48);
    sites[REUSED].allocs += 20;
    sites[REUSED].alloc_bytes += 20 * 48;
    sites[REUSED].frees += 20;
    sites[REUSED].free_bytes += 20 * 48;
    keep(REUSED, i, reused, 48);
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    for (int i = 0; i < ROUNDS; i++)
        work_through(i);
    report_all(sites, SITES);
    victim_end();
    return 0;
}
