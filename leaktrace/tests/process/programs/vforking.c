/* A thread that waits for a child of vfork(2), which ends when it is told to. Prints "ready TID", answers "ping" with "pong", and
 * "end" with "ended" once that thread goes on. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int word[2], answer[2];

static void *wait_for_child(void *nothing)
{
    int tid = (int)syscall(SYS_gettid);
    write(answer[1], &tid, sizeof tid);
    if (vfork() == 0) {
        char byte;
        read(word[0], &byte, 1);
        _exit(0);
    }
    write(answer[1], &tid, sizeof tid);
    for (;;)
        pause();
    return nothing;
}

int main(void)
{
    pthread_t thread;
    int tid;
    char line[64];
    if (pipe(word) != 0 || pipe(answer) != 0 || pthread_create(&thread, NULL, wait_for_child, NULL) != 0)
        return 1;
    read(answer[0], &tid, sizeof tid);
    printf("ready %d\n", tid);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strcmp(line, "end\n") == 0) {
            write(word[1], "", 1);
            read(answer[0], &tid, sizeof tid);
            printf("ended\n");
        } else {
            printf("pong\n");
        }
        fflush(stdout);
    }
    return 0;
}
