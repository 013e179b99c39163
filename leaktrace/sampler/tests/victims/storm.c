/* Threads that allocate, hand blocks to each other and fork children that do the same, with a signal that allocates nothing but comes
   all the time, for SECONDS. */
#define _GNU_SOURCE
#include "gate.h"
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

enum { HANDS = 64, THREADS = 4 };
static void *hands[HANDS];
static unsigned long forks, threads_run;
static time_t end;

static void churn(unsigned seed, unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        seed = seed * 1103515245 + 12345;
        size_t size = 16 + (seed >> 16) % 2000;
        char *block = seed & 1 ? malloc(size) : calloc(1, size);
        if (!block)
            _exit(5);
        memset(block, (int)size, size);
        if (seed & 2)
            block = realloc(block, size + 500);
        if ((unsigned char)block[size - 1] != (unsigned char)size)
            _exit(6);
        free(__atomic_exchange_n(&hands[(seed >> 8) % HANDS], block, __ATOMIC_ACQ_REL));
    }
}

static void *short_lived(void *seed)
{
    churn((unsigned)(size_t)seed, 200);
    return NULL;
}

static void *work(void *seed)
{
    for (unsigned i = 0; time(NULL) < end; i++) {
        churn((unsigned)(size_t)seed + i, 500);
        pthread_t thread;
        if (pthread_create(&thread, NULL, short_lived, (void *)(size_t)i))
            _exit(7);
        pthread_join(thread, NULL);
        __atomic_add_fetch(&threads_run, 1, __ATOMIC_RELAXED);
        pid_t child = i % 8 == 7 ? vfork() : fork();
        if (child == 0) {
            if (i % 8 == 7)
                _exit(0);
            churn(i, 300);
            _exit(0);
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || status)
            _exit(8);
        __atomic_add_fetch(&forks, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static void tick(int number)
{
    (void)number;
}

int main(int count, char **arguments)
{
    pthread_t threads[THREADS];
    struct itimerval often = {{0, 500}, {0, 500}};
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    gate();
    end = time(NULL) + (count > 1 ? atoi(arguments[1]) : 2);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &often, NULL);
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)(i * 77)))
            return 2;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < HANDS; i++)
        free(hands[i]);
    often.it_value.tv_usec = often.it_interval.tv_usec = 0;
    setitimer(ITIMER_REAL, &often, NULL);
    allocations = forks;
    frees = threads_run;
    gate();
    return 0;
}
