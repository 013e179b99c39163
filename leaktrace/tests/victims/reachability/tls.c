/* Thread-local storage: of the program, of a library that is loaded later, and by key; of the first thread and of another.
 *
 *     tls wait|run [LIBRARY]
 *
 * LIBRARY is tls_library.c built with -shared -fPIC; its storage is allocated by ld.so when a thread first uses it, by a
 * malloc of its own or of the program's. Only ld.so's table (dtv) has the pointer to it.
 */
#include "expect.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>

#define KEYS 40

static __thread void *volatile initial = (void *)1, *volatile uninitial;
static pthread_key_t keys[KEYS];

/* At the end of `main` its thread-local variables are still there. */
SITE_FN static void hold_in_the_first_threads(void)
{
    initial = BLOCK(1001, REACHABLE);
    uninitial = BLOCK(1003, REACHABLE);
}

/* The first 32 keys have their room in the thread's descriptor, the others in a block that the C library allocates.
 * Undecided: where libc allocates that block itself, it is a block as any other. */
SITE_FN static void hold_by_key(void)
{
    pthread_setspecific(keys[0], BLOCK(1011, REACHABLE));
    pthread_setspecific(keys[KEYS - 1], BLOCK(1013, REACHABLE));
}

SITE_FN static void hold_in_a_second_threads(void)
{
    initial = BLOCK(1021, REACHABLE);
    uninitial = BLOCK(1023, REACHABLE);
    pthread_setspecific(keys[0], BLOCK(1031, REACHABLE));
    pthread_setspecific(keys[KEYS - 1], BLOCK(1033, REACHABLE));
}

static void (*hold_in_library)(void *small, void *big);

SITE_FN static void hold_in_the_librarys(void)
{
    hold_in_library(BLOCK(1041, REACHABLE), BLOCK(1043, REACHABLE));
}

#define DTV " valgrind=possibly_lost # a thread's dtv is a block, whose second element the thread's descriptor points at"

SITE_FN static void hold_in_the_librarys_of_a_second_thread(void)
{
    hold_in_library(BLOCK(1051, REACHABLE DTV), BLOCK(1053, REACHABLE DTV));
}

static atomic_int there;

static void *run(void *unused)
{
    (void)unused;
    CASE(hold_in_a_second_threads);
    if (hold_in_library)
        CASE(hold_in_the_librarys_of_a_second_thread);
    there = 1;
    for (;;)
        pause();
    return NULL;
}

#define CACHED " valgrind=still_reachable # the C library keeps the memory of a thread that has ended"

/* A thread that has ended lost what its variables held. */
static void *end(void *unused)
{
    (void)unused;
    initial = BLOCK(1061, EITHER(LOST CACHED, LOST));
    scrub();
    return NULL;
}

SITE_FN static void hold_in_an_ended_threads(void)
{
    pthread_t thread;
    victim_require(pthread_create(&thread, NULL, end, NULL) == 0, "a thread could not be started");
    pthread_join(thread, NULL);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    for (int i = 0; i < KEYS; i++)
        victim_require(pthread_key_create(&keys[i], NULL) == 0, "pthread_key_create");
    if (argc > 2) {
        void *library = dlopen(argv[2], RTLD_NOW);
        victim_require(library != NULL, "the library cannot be loaded");
        hold_in_library = (void (*)(void *, void *))dlsym(library, "hold_in_library");
        victim_require(hold_in_library != NULL, "the library lacks a function");
        CASE(hold_in_the_librarys);
    }
    CASE(hold_in_the_first_threads);
    CASE(hold_by_key);
    pthread_t thread;
    victim_require(pthread_create(&thread, NULL, run, NULL) == 0, "a thread could not be started");
    while (!there)
        usleep(1000);
    CASE(hold_in_an_ended_threads);
    judged();
    return 0;
}
