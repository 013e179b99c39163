/* A process that is not to be copied, for the reason that its argument names. Prints "ready", or "ready PID" of the process that is
 * meant, then waits for the end of its standard input. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#ifdef GO
/* Where Go notes what a program was built from. */
__attribute__((section(".go.buildinfo"), used)) static const char buildinfo[] = "as Go has it";
#endif

static void wait_here(void)
{
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    _exit(0);
}

static ucontext_t coroutine;

int main(int argc, char **argv)
{
    const char *reason = argc > 1 ? argv[1] : "";
    pid_t meant = getpid();
    int failed = 0;
    if (strcmp(reason, "seccomp") == 0) {
        struct sock_filter allow = { BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW };
        struct sock_fprog program = { 1, &allow };
        failed = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
    } else if (strcmp(reason, "adopts") == 0) {
        failed = prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    } else if (strcmp(reason, "faults") == 0) {
        failed = syscall(SYS_userfaultfd, O_CLOEXEC) < 0;
    } else if (strcmp(reason, "aio") == 0) {
        unsigned long context = 0;
        failed = syscall(SYS_io_setup, 8, &context);
    } else if (strcmp(reason, "huge") == 0) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE;
        failed = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED;
    } else if (strcmp(reason, "dispatch") == 0) {
        static char selector; /* SYSCALL_DISPATCH_FILTER_ALLOW */
        failed = prctl(59 /* PR_SET_SYSCALL_USER_DISPATCH */, 1, 0, 0, &selector);
    } else if (strcmp(reason, "init") == 0 || strcmp(reason, "unreaped") == 0) {
        int ready[2];
        failed = pipe(ready) || unshare(CLONE_NEWPID);
        meant = fork();
        if (meant == 0) {
            pid_t child = strcmp(reason, "unreaped") == 0 ? fork() : 1;
            if (child > 0)
                write(ready[1], "", 1);
            wait_here();
        }
        char byte;
        read(ready[0], &byte, 1);
    }
    if (failed) {
        perror(reason);
        return 1;
    }
    printf("ready %d\n", meant);
    fflush(stdout);
    if (strcmp(reason, "spins") == 0)
        for (;;)
            ;
    if (strcmp(reason, "coroutine") == 0) {
        getcontext(&coroutine);
        coroutine.uc_stack.ss_size = 64 * 1024;
        coroutine.uc_stack.ss_sp = malloc(coroutine.uc_stack.ss_size);
        makecontext(&coroutine, wait_here, 0);
        setcontext(&coroutine);
    }
    wait_here();
}
