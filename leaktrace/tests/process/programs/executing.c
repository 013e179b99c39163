/* Executes itself for ever, each time from a thread that is not the first, with six others about. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static char **arguments;

static void *wait_here(void *nothing)
{
    for (;;)
        pause();
    return nothing;
}

static void *execute(void *nothing)
{
    execv("/proc/self/exe", arguments);
    return nothing;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    if (argc > 1)
        printf("ready\n"), fflush(stdout);
    static char *rest[] = { "executing", NULL };
    arguments = rest;
    for (int i = 0; i < 6; i++)
        pthread_create(&thread, NULL, wait_here, NULL);
    pthread_create(&thread, NULL, execute, NULL);
    wait_here(NULL);
}
