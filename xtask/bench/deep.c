/* The deep loop. Compiled twice: as `DEEP` is named, with frame pointers or without. */
#include <stdlib.h>

#include "loops.h"

static void pairs(uint64_t units)
{
    for (uint64_t i = 0; i < units; i++) {
        char *volatile block = malloc(64);
        free(block);
    }
}

/* Of the `depth` frames, `spend` and `pairs` are two. */
__attribute__((noinline)) void DEEP(struct run *run, int depth)
{
    if (depth > 3)
        DEEP(run, depth - 1);
    else
        spend(run, pairs);
    /* Not a tail call: the frame has to stay. */
    __asm__ volatile("" ::: "memory");
}
