/* A process of N threads that does what the lines of its standard input say:
 *   ping      each thread answers, then "pong" is printed
 *   count     prints how many SIGUSR1, SIGRTMIN+1 and SIGRTMIN+2 were handled so far
 *   exit      ends with status 3
 * It begins with "ready TID...", the ids of all its threads. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST = 2048 };
static sem_t asked[MOST], answered;
static atomic_int tids[MOST];
static atomic_long handled[3];

static void handle(int signal)
{
    atomic_fetch_add(&handled[signal == SIGUSR1 ? 0 : signal - SIGRTMIN], 1);
}

static void wait_on(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0 && errno == EINTR)
        ;
}

static void *serve(void *number)
{
    long self = (long)number;
    atomic_store(&tids[self], (int)syscall(SYS_gettid));
    sem_post(&answered);
    for (;;) {
        wait_on(&asked[self]);
        sem_post(&answered);
    }
}

int main(int argc, char **argv)
{
    long threads = argc > 1 ? atol(argv[1]) : 1;
    struct sigaction action = { .sa_handler = handle, .sa_flags = SA_RESTART };
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGRTMIN + 1, &action, NULL);
    sigaction(SIGRTMIN + 2, &action, NULL);
    sem_init(&answered, 0, 0);
    for (long i = 1; i < threads; i++) {
        pthread_t thread;
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 64 * 1024);
        sem_init(&asked[i], 0, 0);
        if (pthread_create(&thread, &attributes, serve, (void *)i) != 0)
            return 1;
    }
    for (long i = 1; i < threads; i++)
        wait_on(&answered);
    printf("ready %d", getpid());
    for (long i = 1; i < threads; i++)
        printf(" %d", tids[i]);
    printf("\n");
    fflush(stdout);

    char line[64];
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strcmp(line, "ping\n") == 0) {
            for (long i = 1; i < threads; i++)
                sem_post(&asked[i]);
            for (long i = 1; i < threads; i++)
                wait_on(&answered);
            printf("pong\n");
        } else if (strcmp(line, "count\n") == 0) {
            printf("%ld %ld %ld\n", handled[0], handled[1], handled[2]);
        } else if (strcmp(line, "exit\n") == 0) {
            return 3;
        }
        fflush(stdout);
    }
    return 4;
}
