/* For victims whose threads work side by side and exchange blocks through slots; each thread keeps its own accounts.
 *
 * The victim defines `SITES` and `empty_sites` before it includes this, and `work` after.
 */
#ifndef WORKERS_H
#define WORKERS_H

#include "victim.h"
#include <pthread.h>
#include <stdatomic.h>

#define SLOTS 64
#define MAX_THREADS 64

struct worker {
    pthread_t thread;
    uint64_t seed;
    int64_t operations;
    struct site sites[SITES];
} __attribute__((aligned(128)));

static struct worker workers[MAX_THREADS];
static pthread_barrier_t workers_start, workers_end, workers_leave;

static void work(struct worker *w);

static inline uint64_t next(uint64_t *seed)
{
    uint64_t x = *seed;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *seed = x;
}

static void *workers_run(void *argument)
{
    /* The C library allocates for a new thread and frees what it had cached for one that ends: let the one lie before the
     * trace, and the other behind it. */
    pthread_barrier_wait(&workers_start);
    work(argument);
    pthread_barrier_wait(&workers_end);
    pthread_barrier_wait(&workers_leave);
    return NULL;
}

/* Starts so many threads, which share the operations and wait. */
static inline void workers_prepare(unsigned long n, unsigned long operations)
{
    victim_require(n <= MAX_THREADS, "64 threads at most");
    pthread_barrier_init(&workers_start, NULL, (unsigned)n + 1);
    pthread_barrier_init(&workers_end, NULL, (unsigned)n + 1);
    pthread_barrier_init(&workers_leave, NULL, (unsigned)n + 1);
    for (unsigned long i = 0; i < n; i++) {
        struct worker *w = &workers[i];
        w->seed = 0x9e3779b97f4a7c15u * (i + 1);
        w->operations = (int64_t)(operations / n);
        memcpy(w->sites, empty_sites, sizeof empty_sites);
        victim_require(pthread_create(&w->thread, NULL, workers_run, w) == 0, "pthread_create");
    }
}

/* Lets them work, and returns when all have. */
static inline void workers_let_work(void)
{
    pthread_barrier_wait(&workers_start);
    pthread_barrier_wait(&workers_end);
}

/* Adds their accounts to these. */
static inline void workers_sum(unsigned long n, struct site *sum)
{
    for (unsigned long i = 0; i < n; i++)
        for (int s = 0; s < SITES; s++) {
            sum[s].allocs += workers[i].sites[s].allocs;
            sum[s].alloc_bytes += workers[i].sites[s].alloc_bytes;
            sum[s].frees += workers[i].sites[s].frees;
            sum[s].free_bytes += workers[i].sites[s].free_bytes;
        }
}

static inline void workers_dismiss(unsigned long n)
{
    pthread_barrier_wait(&workers_leave);
    for (unsigned long i = 0; i < n; i++)
        pthread_join(workers[i].thread, NULL);
}

#endif
