/* Ends in the way its first argument names. Built with -pthread. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static char **words;

static void *leave(void *unused)
{
    (void)unused;
    if (!strcmp(words[1], "thread-exits"))
        exit(21);
    if (!strcmp(words[1], "thread-executes")) {
        execv(words[2], words + 2);
        _exit(99);
    }
    if (!strcmp(words[1], "thread-waits"))
        for (;;)
            pause();
    return NULL;
}

static void *outlive(void *leader)
{
    /* Returns once the first thread has called pthread_exit and is gone. */
    pthread_join(*(pthread_t *)leader, NULL);
    char byte;
    if (read(0, &byte, 1) < 0)
        _exit(98);
    exit(23);
}

int main(int argc, char **argv)
{
    const char *how = argc > 1 ? argv[1] : "";
    struct rlimit none = {0, 0};
    pthread_t thread;
    static pthread_t leader;
    words = argv;
    setrlimit(RLIMIT_CORE, &none);
    if (!strcmp(how, "return"))
        return 3;
    if (!strcmp(how, "_exit"))
        _exit(4);
    if (!strcmp(how, "abort"))
        abort();
    if (!strcmp(how, "crash"))
        *(volatile int *)0 = 1;
    if (!strcmp(how, "kill"))
        raise(SIGKILL);
    if (!strcmp(how, "real-time"))
        raise(SIGRTMIN + 6);
    if (!strncmp(how, "thread-", 7)) {
        pthread_create(&thread, NULL, leave, NULL);
        for (;;)
            pause();
    }
    if (!strcmp(how, "first-thread-leaves")) {
        leader = pthread_self();
        pthread_create(&thread, NULL, outlive, &leader);
        pthread_exit(NULL);
    }
    return 99;
}
