/* What plugs into programs of others: blocks that they lose and blocks that they keep, told apart by size. */
#ifndef LEAKY_H
#define LEAKY_H

#include <stdlib.h>
#include <string.h>

typedef void *allocate_fn(size_t);

/* Keeps its frame, and the block is not optimized away. */
#define LEAKY __attribute__((noinline, noclone, used))

static void **kept_by_leaky;

LEAKY static void lose(allocate_fn *allocate, size_t size)
{
    void *volatile block = allocate(size);
    memset(block, 1, size);
    block = NULL;
}

/* In a list. */
LEAKY static void keep(allocate_fn *allocate, size_t size)
{
    void **block = allocate(size);
    memset(block, 1, size);
    *block = kept_by_leaky;
    kept_by_leaky = block;
}

#endif
