/* As many distinct stacks as one likes: 2^BITS paths through two functions that call each other, a block on each.
 *
 *     stacks wait|run BITS
 */
#include "paths.h"

enum { PATH, SITES };
static struct site sites[SITES] = {SITE(leak_path)};
static void *newest;

SITE_FN static void leak_path(unsigned long path)
{
    size_t size = 16 + path % 32;
    void **p = malloc(size);
    victim_require(p != NULL, "out of memory");
    book(&sites[PATH], size);
    *p = newest;
    newest = p;
}

int main(int argc, char **argv)
{
    unsigned long bits = victim_number(argc, argv, 2, 6);
    victim_begin(argc, argv);
    walk_all_paths(bits);
    report_all(sites, SITES);
    report_fact("stacks", 1ul << bits);
    victim_end();
    return 0;
}
