/* Grows by steps, at once or at a steady rate.
 *
 *     growing wait|run FIRST STEP MILLISECONDS STEPS
 *
 * Allocates FIRST bytes in one block, then STEPS times a block of STEP bytes after so many milliseconds each. STEPS 0 is none.
 */
#include "victim.h"

enum { FIRST, STEP, SITES };
static struct site sites[SITES] = {SITE(leak_first), SITE(leak_step)};

SITE_FN static void *leak_first(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_step(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

int main(int argc, char **argv)
{
    size_t first = victim_number(argc, argv, 2, 0), step = victim_number(argc, argv, 3, 0);
    unsigned long milliseconds = victim_number(argc, argv, 4, 0), steps = victim_number(argc, argv, 5, 0);
    victim_begin(argc, argv);
    if (first > 0) {
        victim_require(leak_first(first) != NULL, "out of memory");
        book(&sites[FIRST], first);
    }
    for (; steps > 0; steps--) {
        usleep((useconds_t)milliseconds * 1000);
        victim_require(leak_step(step) != NULL, "out of memory");
        book(&sites[STEP], step);
    }
    report_all(sites, SITES);
    victim_end();
    return 0;
}
