/* The end of a process with several threads: what the others have in their registers and frames at that time is still
 * reachable.
 *
 *     threads_exit wait|run [other|first|last]
 *
 * `other`: a second thread calls exit() while the first one waits. `first`: the first one has ended before that, and
 * what its stack and its thread-local variables held is lost. `last`: the others have ended, and the process ends with
 * its last thread. In these two LeakSanitizer fails, which does not know the first thread as one to be joined, and vgdb
 * does not reach a process whose first thread has ended.
 */
#include "waiting.h"

/* The C library keeps the memory of a thread that has ended. */
#define STILL_THERE " valgrind=still_reachable # the memory is still there"

static const char *how;
static pthread_t first;
static volatile int first_is_there;
static volatile uintptr_t inverted;
static __thread void *volatile local_to_thread;

static void *hold_in_a_register(void *unused)
{
    WAIT_AFTER("mov %[inverted], %%rbx\n\tnot %%rbx", [inverted] "m"(inverted), "rbx");
    return unused;
}

static void *hold_in_a_frame(void *unused)
{
    void *volatile local = BLOCK(1003, REACHABLE);
    local_to_thread = BLOCK(1005, REACHABLE);
    wait_for_ever();
    forget(local);
    return unused;
}

SITE_FN static void start_holders(void)
{
    inverted = masked(BLOCK(1001, REACHABLE));
    start(hold_in_a_register);
    start(hold_in_a_frame);
}

SITE_FN static void hold_to_the_end(void)
{
    void *volatile local = BLOCK(1011, REACHABLE);
    judged();
    exit(local == NULL);
}

static void *end_the_process(void *unused)
{
    if (strcmp(how, "other") != 0) {
        pthread_join(first, NULL);
        /* Whoever follows the first thread by ptrace follows another one by then. */
        usleep(300000);
    }
    while (!first_is_there)
        usleep(1000);
    if (strcmp(how, "last") != 0)
        hold_to_the_end();
    void *volatile local = BLOCK(1021, EITHER(REACHABLE, LOST));
    local_to_thread = BLOCK(1023, REACHABLE);
    judged();
    forget(local);
    return unused;
}

SITE_FN static void wait_in_the_first(void)
{
    void *volatile local = BLOCK(1031, REACHABLE);
    local_to_thread = BLOCK(1033, REACHABLE);
    first_is_there = 1;
    for (;;)
        pause();
    forget(local);
}

SITE_FN static void end_the_first(void)
{
    void *volatile local = BLOCK(1041, LOST);
    local_to_thread = BLOCK(1043, LOST "/" REACHABLE STILL_THERE);
    forget(local);
    first_is_there = 1;
    pthread_exit(NULL);
}

int main(int argc, char **argv)
{
    how = argc > 2 ? argv[2] : "other";
    first = pthread_self();
    victim_begin(argc, argv);
    if (strcmp(how, "last") != 0)
        CASE(start_holders);
    pthread_t thread;
    victim_require(pthread_create(&thread, NULL, end_the_process, NULL) == 0, "a thread could not be started");
    if (strcmp(how, "other") == 0)
        wait_in_the_first();
    end_the_first();
}
