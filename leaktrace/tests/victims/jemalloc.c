/* jemalloc's own interface beside the C names that it takes over: mallocx, rallocx, xallocx, sdallocx, dallocx. */
#include "victim.h"

#include <jemalloc/jemalloc.h>

#define ROUNDS 24

enum { MALLOCX, ALIGNED, RALLOCX, XALLOCX, REFUSED, MALLOC, SITES };

static struct site sites[SITES] = {SITE(leak_mallocx), SITE(leak_aligned),      SITE(leak_rallocx),
                                   SITE(leak_xallocx), SITE(leak_not_resized), SITE(leak_malloc)};

static void *kept[SITES][ROUNDS];

SITE_FN static void *leak_mallocx(size_t size)
{
    void *p = mallocx(size, 0);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_aligned(size_t size)
{
    void *p = mallocx(size, MALLOCX_ALIGN(256) | MALLOCX_ZERO | MALLOCX_TCACHE_NONE);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_rallocx(void *block, size_t size)
{
    void *p = rallocx(block, size, 0);
    KEEP_FRAME();
    return p;
}

/* Shrinking within a size class always succeeds in place. */
SITE_FN static void leak_xallocx(void *block, size_t size)
{
    victim_require(xallocx(block, size, 0, 0) >= size, "xallocx could not resize within a size class");
    KEEP_FRAME();
}

SITE_FN static void *leak_not_resized(size_t size)
{
    void *p = mallocx(size, 0);
    /* A small block cannot grow into a large one where it lies. */
    victim_require(xallocx(p, 1 << 20, 4096, 0) < 1 << 20, "xallocx made a small block large in place");
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_malloc(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

static void keep(int site, int round, void *p, size_t size)
{
    victim_require(p != NULL, "an allocation that must succeed failed");
    book(&sites[site], size);
    switch (round % 4) {
    case 0:
        kept[site][round] = p;
        return;
    case 1:
        dallocx(p, 0);
        break;
    case 2:
        /* Blocks of an alignment are freed with it. */
        sdallocx(p, size, site == ALIGNED ? MALLOCX_ALIGN(256) : 0);
        break;
    default:
        free(p);
    }
    unbook(&sites[site], size);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    for (int i = 0; i < ROUNDS; i++) {
        size_t n = (size_t)i + 1;
        keep(MALLOCX, i, leak_mallocx(24 * n), 24 * n);
        keep(ALIGNED, i, leak_aligned(300 * n), 300 * n);

        void *small = leak_mallocx(10 * n);
        book(&sites[MALLOCX], 10 * n);
        void *moved = leak_rallocx(small, 1000 * n);
        unbook(&sites[MALLOCX], 10 * n);
        keep(RALLOCX, i, moved, 1000 * n);

        /* 4,000 bytes and 3,900 are of one class, the one that ends at 4,096. */
        void *resized = leak_mallocx(4000);
        book(&sites[MALLOCX], 4000);
        leak_xallocx(resized, 3900 - n);
        unbook(&sites[MALLOCX], 4000);
        keep(XALLOCX, i, resized, 3900 - n);

        keep(REFUSED, i, leak_not_resized(64 + n), 64 + n);
        keep(MALLOC, i, leak_malloc(5 * n), 5 * n);
    }
    report_all(sites, SITES);
    victim_end();
    return 0;
}
