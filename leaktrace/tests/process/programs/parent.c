/* The parent of a process of three threads that only wait: prints "ready PID", then each change of it that wait(2) reports. */
#include <pthread.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void *wait_here(void *nothing)
{
    for (;;)
        pause();
    return nothing;
}

int main(void)
{
    int status, begun[2];
    char byte;
    if (pipe(begun) != 0)
        return 1;
    pid_t child = fork();
    if (child == 0) {
        pthread_t thread;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pthread_create(&thread, NULL, wait_here, NULL);
        pthread_create(&thread, NULL, wait_here, NULL);
        write(begun[1], "", 1);
        wait_here(NULL);
    }
    read(begun[0], &byte, 1);
    printf("ready %d\n", child);
    fflush(stdout);
    while (waitpid(child, &status, WUNTRACED | WCONTINUED) == child) {
        if (WIFSTOPPED(status))
            printf("stopped %d\n", WSTOPSIG(status));
        else if (WIFCONTINUED(status))
            printf("continued\n");
        else if (WIFSIGNALED(status))
            printf("killed %d\n", WTERMSIG(status));
        else
            printf("exited %d\n", WEXITSTATUS(status));
        fflush(stdout);
    }
    return 0;
}
