// A plug-in whose constructor waits for a thread, and so holds the dynamic linker's lock while that makes the first calls of many functions.
#include "gate.h"
#include <malloc.h>
#include <new>
#include <pthread.h>

static void *first_calls(void *)
{
    void *block;
    if (posix_memalign(&block, 64, 100))
        _exit(5);
    free(got(block));
    free(got(aligned_alloc(64, 128)));
    free(got(memalign(64, 100)));
    free(got(valloc(100)));
    free(got(pvalloc(100)));
    ::operator delete(got(::operator new(100)));
    ::operator delete[](got(::operator new[](100, std::align_val_t{256})), std::align_val_t{256});
    return nullptr;
}

__attribute__((constructor)) static void begin()
{
    pthread_t thread;
    // Instead of waiting for ever.
    alarm(30);
    if (pthread_create(&thread, nullptr, first_calls, nullptr))
        _exit(6);
    pthread_join(thread, nullptr);
    alarm(0);
}

extern "C" void plugin_run()
{
    allocations = 0;
    gate();
    first_calls(nullptr);
    frees = allocations;
    gate();
}
