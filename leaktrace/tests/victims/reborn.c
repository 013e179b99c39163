/* Children one after the other that all have the same pid: each leaks, and knows nothing of those before.
 *
 *     reborn wait|run LIVES
 *
 * The n-th leaks n blocks of 1000 + n bytes at the addresses at which those before it had theirs.
 */
#include "victim.h"

#include <linux/sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { REBORN, SITES };
static struct site sites[SITES] = {SITE(leak_reborn)};

SITE_FN static void *leak_reborn(size_t size)
{
    void *p = malloc(size);
    book(&sites[REBORN], size);
    return p;
}

static void live(unsigned long number)
{
    static void *volatile kept[1000];
    for (unsigned long i = 0; i < number; i++)
        kept[i] = leak_reborn(1000 + number);
    free(leak_reborn(7));
    unbook(&sites[REBORN], 7);
    report_site(&sites[REBORN]);
    _exit(0);
}

/* A child with this pid, once nobody else has it. */
static pid_t fork_as(pid_t pid)
{
    for (;;) {
        struct clone_args arguments = {
            .exit_signal = SIGCHLD, .set_tid = pid ? (uint64_t)(uintptr_t)&pid : 0, .set_tid_size = pid ? 1 : 0};
        long child = syscall(SYS_clone3, &arguments, sizeof arguments);
        if (child >= 0)
            return (pid_t)child;
        victim_require(errno == EEXIST || errno == EAGAIN, "clone3 with set_tid");
        usleep(1000);
    }
}

int main(int argc, char **argv)
{
    unsigned long lives = victim_number(argc, argv, 2, 5);
    victim_begin(argc, argv);
    pid_t pid = 0;
    for (unsigned long i = 1; i <= lives; i++) {
        pid_t child = fork_as(pid);
        if (child == 0)
            live(i);
        pid = child;
        int status;
        victim_require(waitpid(pid, &status, 0) == pid && status == 0, "a child failed");
    }
    victim_end();
    return 0;
}
