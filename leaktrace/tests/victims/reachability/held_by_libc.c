/* Pointers that the program gave to the C library: for its end, for its threads, for its streams. */
#include "waiting.h"

#include <search.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>

/* Arguments of functions that are called at the end; they stand plainly in the library's tables, also after the call. */
extern int __cxa_atexit(void (*)(void *), void *, void *);

SITE_FN static void take(void *argument)
{
    forget(argument);
}

SITE_FN static void hold_for_the_end(void)
{
    victim_require(__cxa_atexit(take, BLOCK(1001, REACHABLE), NULL) == 0, "__cxa_atexit");
}

#ifdef __GLIBC__
static void ignore_on_exit(int unused, void *unused_too)
{
    (void)unused;
    (void)unused_too;
}

SITE_FN static void hold_on_exit(void)
{
    victim_require(on_exit(ignore_on_exit, BLOCK(1003, REACHABLE)) == 0, "on_exit");
}
#endif

/* The argument of a thread, which the thread has not kept; it stands in the thread's descriptor. */
#define NO_DESCRIPTORS " lsan=definitely_lost # it looks into no descriptors of threads"

static void *forget_argument(void *argument)
{
    argument = NULL;
    forget(argument);
    scrub();
    WAIT_AFTER("xor %%ebx, %%ebx\n\txor %%r9d, %%r9d", [unused] "m"(there), "rbx", "r9");
    return argument;
}

SITE_FN static void hold_as_an_argument(void)
{
    start_with(NULL, forget_argument, BLOCK(1011, REACHABLE NO_DESCRIPTORS));
}

/* What a thread returned that nobody has joined yet; it stands in the descriptor as well, of a thread that is no more.
 * Undecided: of a thread that was joined everything there is dead, and the two look alike but for the library's lists. */
static volatile int returning;

static void *give_back(void *argument)
{
    returning = (int)syscall(SYS_gettid);
    return (void *)~(uintptr_t)argument;
}

SITE_FN static void hold_as_a_result(void)
{
    pthread_t thread;
    void *inverted = (void *)masked(BLOCK(1013, REACHABLE "/" POSSIBLE NO_DESCRIPTORS));
    victim_require(pthread_create(&thread, NULL, give_back, inverted) == 0, "a thread could not be started");
    while (returning == 0 || syscall(SYS_tgkill, getpid(), returning, 0) == 0)
        usleep(1000);
}

/* What a thread's handler gets if the thread is cancelled. */
static void *wait_with_handler(void *unused)
{
    pthread_cleanup_push(take, BLOCK(1021, REACHABLE));
    wait_for_ever();
    pthread_cleanup_pop(0);
    return unused;
}

SITE_FN static void hold_for_a_cancellation(void)
{
    start(wait_with_handler);
}

/* The buffers of a stream that has not been used and of one that has. Undecided: at the end glibc takes buffers away from
 * streams, which other C libraries do not. */
SITE_FN static void hold_as_a_buffer(void)
{
    FILE *unused = fopen("/dev/null", "w"), *used = fopen("/dev/null", "w");
    victim_require(unused != NULL && used != NULL, "fopen");
    setvbuf(unused, BLOCK(1031, EITHER(REACHABLE, LOST "/" REACHABLE)), _IOFBF, 1031);
    setvbuf(used, BLOCK(1033, EITHER(REACHABLE, LOST "/" REACHABLE)), _IOFBF, 1033);
    fputs("something", used);
}

/* In the library's search tree: a node of its own, which holds the key by its start; the program has the tree's root. */
static void *volatile tree;

static int compare(const void *one, const void *other)
{
    return one < other ? -1 : one > other;
}

SITE_FN static void hold_in_a_search_tree(void)
{
    victim_require(tsearch(BLOCK(1041, REACHABLE), (void **)&tree, compare) != NULL, "tsearch");
}

/* The value of a timer for which the library starts a thread. */
static void ignore_value(union sigval unused)
{
    (void)unused;
}

SITE_FN static void hold_in_a_timer_with_a_thread(void)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = ignore_value};
    event.sigev_value.sival_ptr = BLOCK(1051, REACHABLE);
    victim_require(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer_create");
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(hold_for_the_end);
#ifdef __GLIBC__
    CASE(hold_on_exit);
#endif
    CASE(hold_as_an_argument);
    CASE(hold_as_a_result);
    CASE(hold_for_a_cancellation);
    CASE(hold_as_a_buffer);
    CASE(hold_in_a_search_tree);
    CASE(hold_in_a_timer_with_a_thread);
    judged();
    return tree == NULL;
}
