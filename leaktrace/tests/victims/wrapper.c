/* A library that takes over malloc and its like and passes each call on to the next in line, with work of its own. */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>

static unsigned long calls;

#define NEXT(name, result, ...) \
    static result (*next)(__VA_ARGS__); \
    if (!next) \
        next = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name); \
    calls += 1

void *malloc(size_t size)
{
    NEXT("malloc", void *, size_t);
    void *p = next(size);
    calls += p != NULL;
    return p;
}

void *calloc(size_t n, size_t size)
{
    NEXT("calloc", void *, size_t, size_t);
    void *p = next(n, size);
    calls += p != NULL;
    return p;
}

void *realloc(void *block, size_t size)
{
    NEXT("realloc", void *, void *, size_t);
    void *p = next(block, size);
    calls += p != NULL;
    return p;
}

void free(void *block)
{
    NEXT("free", void, void *);
    next(block);
    calls += 1;
}

unsigned long wrapper_calls(void)
{
    return calls;
}
