/* As many distinct stacks as one likes: 2^BITS paths through two functions that call each other, a block on each.
 *
 *     stacks wait|run BITS
 */
#include "victim.h"

enum { PATH, SITES };
static struct site sites[SITES] = {SITE(leak_path)};
static void *newest;

static void step(unsigned long path, unsigned long bits);

SITE_FN static void leak_path(unsigned long path)
{
    size_t size = 16 + path % 32;
    void **p = malloc(size);
    victim_require(p != NULL, "out of memory");
    book(&sites[PATH], size);
    *p = newest;
    newest = p;
}

SITE_FN static void left(unsigned long path, unsigned long bits)
{
    step(path, bits);
    KEEP_FRAME();
}

SITE_FN static void right(unsigned long path, unsigned long bits)
{
    step(path, bits);
    KEEP_FRAME();
}

/* The lowest `bits` bits of the path choose the functions on the way. */
__attribute__((noinline)) static void step(unsigned long path, unsigned long bits)
{
    if (bits == 0)
        leak_path(path);
    else if (path >> (bits - 1) & 1)
        left(path, bits - 1);
    else
        right(path, bits - 1);
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    unsigned long bits = victim_number(argc, argv, 2, 6);
    victim_begin(argc, argv);
    for (unsigned long path = 0; path < 1ul << bits; path++)
        step(path, bits);
    report_all(sites, SITES);
    report_fact("stacks", 1ul << bits);
    victim_end();
    return 0;
}
