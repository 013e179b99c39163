/* Every allocation function of the C library that a program calls by name: some blocks of each stay, some go. */
#include "victim.h"

#include <malloc.h>

#define ROUNDS 24

/* Gone from the headers since glibc 2.26, still in the library for old programs. */
extern void old_cfree(void *block);
__asm__(".symver old_cfree,cfree@GLIBC_2.2.5");

enum { MALLOC, CALLOC, REALLOC, REALLOCARRAY, POSIX_MEMALIGN, ALIGNED_ALLOC, MEMALIGN, VALLOC, PVALLOC, BIG, CFREED, EMPTY, SITES };

static struct site sites[SITES] = {
    SITE(leak_malloc),        SITE(leak_calloc),   SITE(leak_realloc), SITE(leak_reallocarray),
    SITE(leak_posix_memalign), SITE(leak_aligned_alloc), SITE(leak_memalign), SITE(leak_valloc),
    SITE(leak_pvalloc),       SITE(leak_big),      SITE(leak_cfreed),  SITE(leak_empty),
};

/* Reachable all the while: what stays outstanding here is kept on purpose. */
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

SITE_FN static void *leak_reallocarray(size_t n, size_t size)
{
    void *p = reallocarray(NULL, n, size);
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

SITE_FN static void *leak_valloc(size_t size)
{
    void *p = valloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_pvalloc(size_t size)
{
    void *p = pvalloc(size);
    KEEP_FRAME();
    return p;
}

/* Above the mmap threshold: such blocks come from mmap and go back by munmap inside malloc and free. */
SITE_FN static void *leak_big(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_cfreed(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

/* A block of no bytes is a block: malloc(0) and calloc(0, n) return addresses that must be freed. */
SITE_FN static void *leak_empty(int which)
{
    void *p = which ? calloc(0, 32) : malloc(0);
    KEEP_FRAME();
    return p;
}

static void keep(int site, int round, void *p, size_t size)
{
    victim_require(p != NULL, "an allocation that must succeed failed");
    book(&sites[site], size);
    /* Two of three go again: through free, cfree for the blocks made for it. */
    if (round % 3 != 0) {
        if (site == CFREED)
            old_cfree(p);
        else
            free(p);
        unbook(&sites[site], size);
    } else {
        kept[site][round] = p;
    }
    free(NULL);
    old_cfree(NULL);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    for (int i = 0; i < ROUNDS; i++) {
        size_t n = (size_t)i + 1;
        keep(MALLOC, i, leak_malloc(24 * n), 24 * n);
        keep(CALLOC, i, leak_calloc(n, 40), n * 40);
        keep(REALLOC, i, leak_realloc(56 * n), 56 * n);
        keep(REALLOCARRAY, i, leak_reallocarray(n, 72), n * 72);
        /* Up to 16 bytes of alignment these call malloc, beyond they do not. */
        keep(POSIX_MEMALIGN, i, leak_posix_memalign((size_t)8 << i % 8, 100 * n), 100 * n);
        keep(ALIGNED_ALLOC, i, leak_aligned_alloc((size_t)16 << i % 4, 128 * n), 128 * n);
        keep(MEMALIGN, i, leak_memalign((size_t)2 << i % 6, 33 * n), 33 * n);
        keep(VALLOC, i, leak_valloc(17 * n), 17 * n);
        /* Whole pages, because pvalloc rounds up to them. */
        keep(PVALLOC, i, leak_pvalloc(4096 * (n % 3 + 1)), 4096 * (n % 3 + 1));
        keep(BIG, i, leak_big(300000 + n * 4096), 300000 + n * 4096);
        keep(CFREED, i, leak_cfreed(8 * n), 8 * n);
        keep(EMPTY, i, leak_empty(i % 2), 0);
    }
    report_all(sites, SITES);
    victim_end();
    return 0;
}
