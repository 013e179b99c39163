/* What the program itself calls no leak, by LeakSanitizer's functions: with it and what it leads to, and without what only looks so.
 *
 *     annotated wait|run
 */
#include "expect.h"

#include "../annotations.h"

#include <pthread.h>
#include <stdatomic.h>

#define UNKNOWN " # memcheck does not know LeakSanitizer's functions"
#define IGNORED REACHABLE " valgrind=definitely_lost" UNKNOWN
#define IGNORED_WITH REACHABLE " valgrind=indirectly_lost" UNKNOWN

static void *volatile held;

SITE_FN static void hold(void)
{
    held = BLOCK(1001, REACHABLE);
}

SITE_FN static void lose(void)
{
    forget(BLOCK(1003, LOST));
    forget(BLOCK(1005, LOST));
    void **first = BLOCK(1007, LOST);
    *first = BLOCK(1009, INDIRECT);
    forget(first);
}

SITE_FN static void ignore(void)
{
    __lsan_ignore_object(BLOCK(1011, IGNORED));
    __lsan_ignore_object((char *)BLOCK(1013, IGNORED) + 1);
    __lsan_ignore_object((char *)BLOCK(1015, IGNORED) + 1014);
    /* Behind its end: of no block. */
    __lsan_ignore_object((char *)BLOCK(1017, LOST) + 1017);
    __lsan_ignore_object(NULL);
    __lsan_ignore_object((const void *)&held);
}

/* Further in than leaktrace's programs look. */
SITE_FN static void ignore_far_inside(void)
{
    __lsan_ignore_object((char *)BLOCK(40961, IGNORED) + 40960);
    __lsan_ignore_object((char *)BLOCK(40963, IGNORED) + 5000);
    forget(BLOCK(40965, LOST));
}

SITE_FN static void ignore_what_leads_to_others(void)
{
    void **first = BLOCK(1021, IGNORED), **second = BLOCK(1023, IGNORED_WITH);
    *first = second;
    *second = BLOCK(1025, IGNORED_WITH);
    __lsan_ignore_object(first);
}

SITE_FN static void disable(void)
{
    __lsan_disable();
    forget(BLOCK(1031, IGNORED));
    __lsan_disable();
    forget(BLOCK(1033, IGNORED));
    __lsan_enable();
    void **first = BLOCK(1035, IGNORED);
    __lsan_enable();
    *first = BLOCK(1037, IGNORED_WITH);
    forget(first);
    forget(BLOCK(1039, LOST));
}

/* Another block at the address of one that was ignored. */
SITE_FN static void free_again(void)
{
    void *block = malloc(161);
    __lsan_ignore_object(block);
    uintptr_t before = masked(block);
    free(block);
    void *another = BLOCK(161, LOST);
    victim_say("{\"fact\":\"same_address\",\"value\":%d}\n", masked(another) == before);
    forget(another);
}

/* What realloc gives is a new block, also where it lies at the same address. */
SITE_FN static void reallocate(void)
{
    void *block = malloc(1041);
    __lsan_ignore_object(block);
    EXPECT(1043, LOST);
    forget(realloc(block, 1043));
    block = malloc(1045);
    __lsan_disable();
    EXPECT(1047, IGNORED);
    forget(realloc(block, 1047));
    __lsan_enable();
#ifndef WITH_SANITIZER
    /* One that fails leaves the block as it was. */
    block = BLOCK(1049, IGNORED);
    __lsan_ignore_object(block);
    victim_require(realloc(block, PTRDIFF_MAX - 4096) == NULL, "memory without end");
#endif
}

static atomic_int step;

static void until(int wanted)
{
    while (atomic_load(&step) != wanted)
        usleep(1000);
}

SITE_FN static void lose_in_thread(void)
{
    forget(BLOCK(1051, LOST));
}

/* While another thread has disabled leaks. */
static void *not_disabled(void *unused)
{
    until(1);
    CASE(lose_in_thread);
    atomic_store(&step, 2);
    return unused;
}

SITE_FN static void ignore_in_thread(void)
{
    __lsan_disable();
    forget(BLOCK(1053, IGNORED));
}

/* Ends with leaks disabled. */
static void *ending(void *unused)
{
    CASE(ignore_in_thread);
    return unused;
}

SITE_FN static void lose_in_later_thread(void)
{
    forget(BLOCK(1055, LOST));
}

static void *later(void *unused)
{
    CASE(lose_in_later_thread);
    return unused;
}

static void run(void *(*body)(void *))
{
    pthread_t thread;
    victim_require(pthread_create(&thread, NULL, body, NULL) == 0, "no thread");
    if (body == not_disabled) {
        __lsan_disable();
        atomic_store(&step, 1);
        until(2);
        __lsan_enable();
    }
    pthread_join(thread, NULL);
}

SITE_FN static void threads(void)
{
    run(not_disabled);
    run(ending);
    run(later);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(hold);
    CASE(lose);
    CASE(ignore);
    CASE(ignore_far_inside);
    CASE(ignore_what_leads_to_others);
    CASE(disable);
    CASE(free_again);
    CASE(reallocate);
    CASE(threads);
    judged();
    return 0;
}
