/* Many blocks outstanding at once, from one site, and then perhaps none of them.
 *
 *     outstanding wait|run BLOCKS [keep|free]
 */
#include "victim.h"

enum { BLOCK, SITES };
static struct site sites[SITES] = {SITE(leak_block)};

SITE_FN static void *leak_block(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

int main(int argc, char **argv)
{
    unsigned long n = victim_number(argc, argv, 2, 1000);
    int keep = argc < 4 || strcmp(argv[3], "keep") == 0;
    void *newest = NULL;
    victim_begin(argc, argv);
    /* A list through the blocks themselves: the victim needs no memory of its own for it. */
    for (unsigned long i = 0; i < n; i++) {
        size_t size = 16 + i % 8;
        void **p = leak_block(size);
        victim_require(p != NULL, "out of memory");
        book(&sites[BLOCK], size);
        *p = newest;
        newest = p;
    }
    for (unsigned long i = n; !keep && i-- > 0;) {
        void **p = newest;
        newest = *p;
        free(p);
        unbook(&sites[BLOCK], 16 + i % 8);
    }
    report_all(sites, SITES);
    victim_end();
    return 0;
}
