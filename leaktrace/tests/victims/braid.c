/* Deep stacks, each of which goes its own way through two functions: every frame of it can be told.
 *
 *     braid wait|run DEPTH STACKS
 *
 * Stack number n leaks a block of 1000 + n bytes. From the outermost frame on, the highest bit of a number that begins as n
 * and is stepped before each call (s = s * 6364136223846793005 + 1442695040888963407) chooses `left` where it is set.
 */
#include "victim.h"

enum { BRAID, SITES };
static struct site sites[SITES] = {SITE(leak_braid)};
static void *newest;
static volatile unsigned long lefts, rights;

static void step(uint64_t state, unsigned long depth, size_t size);

SITE_FN static void leak_braid(size_t size)
{
    void **p = malloc(size);
    victim_require(p != NULL, "out of memory");
    book(&sites[BRAID], size);
    *p = newest;
    newest = p;
}

SITE_FN static void left(uint64_t state, unsigned long depth, size_t size)
{
    lefts++;
    step(state, depth, size);
    KEEP_FRAME();
}

SITE_FN static void right(uint64_t state, unsigned long depth, size_t size)
{
    rights++;
    step(state, depth, size);
    KEEP_FRAME();
}

__attribute__((always_inline)) static inline void step(uint64_t state, unsigned long depth, size_t size)
{
    if (depth == 0) {
        leak_braid(size);
        return;
    }
    state = state * 6364136223846793005u + 1442695040888963407u;
    if (state >> 63)
        left(state, depth - 1, size);
    else
        right(state, depth - 1, size);
}

int main(int argc, char **argv)
{
    unsigned long depth = victim_number(argc, argv, 2, 300), stacks = victim_number(argc, argv, 3, 10);
    victim_begin(argc, argv);
    for (unsigned long n = 0; n < stacks; n++)
        step(n, depth, 1000 + n);
    report_all(sites, SITES);
    victim_end();
    return 0;
}
