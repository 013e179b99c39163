/* What all victims share: they wait for the test without allocating. */
#ifndef GATE_H
#define GATE_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned long allocations, frees;

/* Tells the test that this point is reached, and waits until it says go. */
static inline void gate(void)
{
    char text[80], answer;
    int length = snprintf(text, sizeof text, "%lu %lu\n", __atomic_load_n(&allocations, __ATOMIC_SEQ_CST),
                          __atomic_load_n(&frees, __ATOMIC_SEQ_CST));
    if (write(1, text, (size_t)length) != length || read(0, &answer, 1) != 1)
        _exit(3);
}

static inline void *got(void *block)
{
    if (!block)
        _exit(4);
    /* All of a block is the program's. */
    *(volatile char *)block = 1;
    __atomic_add_fetch(&allocations, 1, __ATOMIC_SEQ_CST);
    return block;
}

static inline void gone(void)
{
    __atomic_add_fetch(&frees, 1, __ATOMIC_SEQ_CST);
}

/* What the compiler does not see through. */
static volatile size_t huge = (size_t)1 << 62;
/* Less than the largest address space has, and more than a machine. */
static volatile size_t large __attribute__((unused)) = (size_t)1 << 55;
static volatile size_t zero = 0;
#endif
