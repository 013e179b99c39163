/* mimalloc's own interface beside the C names that it takes over, and its copies of strings, which call nobody. */
#include "victim.h"

#include <mimalloc.h>

#define ROUNDS 24
/* Above what is read of a string at once. */
#define LONG 5000

enum { MI_MALLOC, MI_ZALLOC, MI_CALLOC, MI_REALLOC, MI_ALIGNED, MI_HEAP, MI_STRDUP, MI_STRNDUP, MALLOC, SITES };

static struct site sites[SITES] = {
    SITE(leak_mi_malloc), SITE(leak_mi_zalloc), SITE(leak_mi_calloc), SITE(leak_mi_realloc), SITE(leak_mi_aligned),
    SITE(leak_mi_heap),   SITE(leak_mi_strdup), SITE(leak_mi_strndup), SITE(leak_malloc),
};

static void *kept[SITES][ROUNDS];
static char text[LONG * 2];

SITE_FN static void *leak_mi_malloc(size_t size)
{
    void *p = mi_malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_mi_zalloc(size_t size)
{
    void *p = mi_zalloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_mi_calloc(size_t n, size_t size)
{
    void *p = mi_calloc(n, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_mi_realloc(void *block, size_t size)
{
    void *p = mi_realloc(block, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_mi_aligned(size_t size)
{
    void *p = mi_malloc_aligned(size, 512);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_mi_heap(mi_heap_t *heap, size_t size)
{
    void *p = mi_heap_malloc(heap, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_mi_strdup(const char *string)
{
    void *p = mi_strdup(string);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_mi_strndup(const char *string, size_t size)
{
    void *p = mi_strndup(string, size);
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
        mi_free(p);
        break;
    case 2:
        mi_free_size(p, size);
        break;
    default:
        free(p);
    }
    unbook(&sites[site], size);
}

int main(int argc, char **argv)
{
    memset(text, 'x', sizeof text - 1);
    mi_heap_t *heap = mi_heap_get_default();
    victim_begin(argc, argv);
    for (int i = 0; i < ROUNDS; i++) {
        size_t n = (size_t)i + 1;
        keep(MI_MALLOC, i, leak_mi_malloc(24 * n), 24 * n);
        keep(MI_ZALLOC, i, leak_mi_zalloc(700 * n), 700 * n);
        keep(MI_CALLOC, i, leak_mi_calloc(n, 40), n * 40);

        void *small = leak_mi_malloc(10 * n);
        book(&sites[MI_MALLOC], 10 * n);
        void *moved = leak_mi_realloc(small, 1000 * n);
        unbook(&sites[MI_MALLOC], 10 * n);
        keep(MI_REALLOC, i, moved, 1000 * n);

        keep(MI_ALIGNED, i, leak_mi_aligned(512 * n), 512 * n);
        keep(MI_HEAP, i, leak_mi_heap(heap, 33 * n), 33 * n);
        /* Lengths around what is read at once: 2,048 bytes with the terminator. */
        size_t length = i == 0 ? 0 : i == 3 ? LONG : 2034 + n;
        keep(MI_STRDUP, i, leak_mi_strdup(text + sizeof text - 1 - length), length + 1);
        keep(MI_STRNDUP, i, leak_mi_strndup(text, 3 * n), 3 * n + 1);
        keep(MALLOC, i, leak_malloc(5 * n), 5 * n);
    }
    report_all(sites, SITES);
    victim_end();
    return 0;
}
