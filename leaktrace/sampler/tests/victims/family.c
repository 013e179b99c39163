/* Every function of the malloc family, in THREADS threads, ROUNDS times, without pvalloc by a third argument; the books at each gate. */
#define _GNU_SOURCE
#include "gate.h"
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>

static int start[2];
static unsigned rounds;
static int has_pvalloc;

static void release(void *block)
{
    free(block);
    gone();
}

/* A realloc is a free and an allocation, also where it gives the same block. */
static void *grown(void *block)
{
    gone();
    return got(block);
}

static void *work(void *unused)
{
    char go;
    (void)unused;
    if (read(start[0], &go, 1) != 1)
        _exit(5);
    for (unsigned round = 0; round < rounds; round++) {
        void *block = got(malloc(1 + round % 3000));
        /* More than any address space has: nothing happens. */
        void *keep = realloc(block, huge);
        if (keep)
            _exit(6);
        keep = realloc(block, large);
        if (keep)
            _exit(6);
        /* The failed call took it out and put it back: a free and an allocation of the same block. */
        gone();
        got(block);
        block = grown(realloc(block, 5000 + round % 100));
        block = grown(realloc(block, 10));
        block = grown(reallocarray(block, 30, 40));
        if (reallocarray(block, huge, huge))
            _exit(7);
        release(block);
        block = got(realloc(NULL, 100));
        release(block);
        block = got(calloc(3, 40));
        if (((char *)block)[100])
            _exit(8);
        release(block);
        if (calloc(huge, huge) || malloc(huge))
            _exit(9);
        if (posix_memalign(&block, 64, 100) || (uintptr_t)block % 64)
            _exit(10);
        release(got(block));
        release(got(aligned_alloc(256, 512)));
        release(got(memalign(128, 33)));
#ifdef __GLIBC__
        release(got(valloc(100)));
        /* jemalloc leaves it to glibc, whose blocks it cannot free. */
        if (has_pvalloc)
            release(got(pvalloc(100)));
#endif
        release(got(malloc(zero + 1)));
        block = malloc(zero);
        if (block) {
            __atomic_add_fetch(&allocations, 1, __ATOMIC_SEQ_CST);
            release(block);
        }
        free(NULL);
        release(got(strdup("a string of the C library's")));
        if (round % 10 == 0)
            got(malloc(24));
    }
    return NULL;
}

int main(int count, char **arguments)
{
    pthread_t threads[16];
    unsigned number = count > 1 ? (unsigned)atoi(arguments[1]) : 1;
    rounds = count > 2 ? (unsigned)atoi(arguments[2]) : 100;
    has_pvalloc = count <= 3;
    if (number > 16 || pipe(start))
        return 2;
    for (unsigned i = 0; i < number; i++)
        if (pthread_create(&threads[i], NULL, work, NULL))
            return 2;
    gate();
    for (unsigned i = 0; i < number; i++)
        if (write(start[1], "x", 1) != 1)
            return 2;
    for (unsigned i = 0; i < number; i++)
        pthread_join(threads[i], NULL);
    gate();
    return 0;
}
