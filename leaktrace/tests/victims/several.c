/* Three allocators in one process: malloc is jemalloc's, mi_malloc is mimalloc's, __libc_malloc is the C library's. */
#include "victim.h"

#include <mimalloc.h>

#define ROUNDS 30

extern void *__libc_malloc(size_t size);
extern void __libc_free(void *block);

enum { JEMALLOC, MIMALLOC, GLIBC, NEW_STRING, SITES };

static struct site sites[SITES] = {SITE(leak_jemalloc), SITE(leak_mimalloc), SITE(leak_glibc), SITE(leak_string)};

static void *kept[SITES][ROUNDS];

SITE_FN static void *leak_jemalloc(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_mimalloc(size_t size)
{
    void *p = mi_malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_glibc(size_t size)
{
    void *p = __libc_malloc(size);
    KEEP_FRAME();
    return p;
}

/* The C library's strdup calls whichever malloc the program has. */
SITE_FN static void *leak_string(const char *text)
{
    void *p = strdup(text);
    KEEP_FRAME();
    return p;
}

static void keep(int site, int round, void *p, size_t size, void (*give_back)(void *))
{
    victim_require(p != NULL, "an allocation that must succeed failed");
    book(&sites[site], size);
    if (round % 3 == 0) {
        kept[site][round] = p;
        return;
    }
    give_back(p);
    unbook(&sites[site], size);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    for (int i = 0; i < ROUNDS; i++) {
        size_t n = (size_t)i + 1;
        keep(JEMALLOC, i, leak_jemalloc(20 * n), 20 * n, free);
        keep(MIMALLOC, i, leak_mimalloc(31 * n), 31 * n, mi_free);
        keep(GLIBC, i, leak_glibc(42 * n), 42 * n, __libc_free);
        keep(NEW_STRING, i, leak_string("twelve bytes"), 13, free);
    }
    report_all(sites, SITES);
    victim_end();
    return 0;
}
