/* Leaks at the end of a recursion.
 *
 *     deep wait|run DEPTH [BLOCKS]
 */
#include "victim.h"

enum { DEEP, SITES };
static struct site sites[SITES] = {SITE(leak_deep)};
static void *newest;

SITE_FN static void leak_deep(size_t size)
{
    void **p = malloc(size);
    victim_require(p != NULL, "out of memory");
    book(&sites[DEEP], size);
    *p = newest;
    newest = p;
}

SITE_FN static void descend(unsigned long depth, size_t size)
{
    if (depth == 0)
        leak_deep(size);
    else
        descend(depth - 1, size);
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    unsigned long depth = victim_number(argc, argv, 2, 10), blocks = victim_number(argc, argv, 3, 5);
    victim_begin(argc, argv);
    for (unsigned long i = 0; i < blocks; i++)
        descend(depth, 64 + i);
    report_all(sites, SITES);
    victim_end();
    return 0;
}
