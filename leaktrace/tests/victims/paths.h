/* For victims with as many distinct stacks as one likes: 2^BITS paths through two functions that call each other.
 *
 * The victim defines `leak_path`, which is called at the end of each.
 */
#ifndef PATHS_H
#define PATHS_H

#include "victim.h"

static void leak_path(unsigned long path);
static void step(unsigned long path, unsigned long bits);

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

static inline void walk_all_paths(unsigned long bits)
{
    for (unsigned long path = 0; path < 1ul << bits; path++)
        step(path, bits);
}

#endif
