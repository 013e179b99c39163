/* Threads that allocate, reallocate and free each other's blocks.
 *
 *     threads wait|run THREADS OPERATIONS
 *
 * Blocks travel through a small array of slots that all threads exchange atomically. A block that one thread frees or
 * reallocates is handed out to another at once, so that an observer that books late or drops late gets it wrong.
 * OPERATIONS counts calls of the allocator, of all threads together.
 */
#include "victim.h"

#include <pthread.h>
#include <stdatomic.h>

#define SLOTS 64
#define MAX_THREADS 64

enum { MALLOC, CALLOC, REALLOC, MEMALIGN, SITES };
static const struct site empty_sites[SITES] = {
    SITE(leak_thread_malloc),
    SITE(leak_thread_calloc),
    SITE(leak_thread_realloc),
    SITE(leak_thread_memalign),
};

/* Stands at the start of each block: what it is booked as. */
struct block {
    uint32_t site, size;
};

struct worker {
    pthread_t thread;
    uint64_t seed, operations;
    struct site sites[SITES];
} __attribute__((aligned(128)));

static _Atomic(struct block *) slots[SLOTS];
static struct worker workers[MAX_THREADS];
static pthread_barrier_t start, end, leave;

static uint64_t next(uint64_t *seed)
{
    uint64_t x = *seed;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *seed = x;
}

SITE_FN static struct block *leak_thread_malloc(size_t size)
{
    struct block *p = malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static struct block *leak_thread_calloc(size_t size)
{
    struct block *p = calloc(1, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static struct block *leak_thread_realloc(struct block *old, size_t size)
{
    struct block *p = realloc(old, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static struct block *leak_thread_memalign(size_t size)
{
    void *p = NULL;
    if (posix_memalign(&p, 64, size) != 0)
        return NULL;
    KEEP_FRAME();
    return p;
}

static struct block *label(struct worker *w, struct block *p, uint32_t site, size_t size)
{
    victim_require(p != NULL, "out of memory");
    book(&w->sites[site], size);
    p->site = site;
    p->size = (uint32_t)size;
    return p;
}

static void put(struct worker *w, struct block *p)
{
    struct block *displaced = atomic_exchange(&slots[next(&w->seed) % SLOTS], p);
    if (displaced) {
        unbook(&w->sites[displaced->site], displaced->size);
        free(displaced);
        w->operations--;
    }
}

static void work(struct worker *w)
{
    while ((int64_t)w->operations > 0) {
        uint64_t r = next(&w->seed);
        size_t size = sizeof(struct block) + (r >> 8) % 200;
        struct block *p = atomic_exchange(&slots[r % SLOTS], NULL);
        w->operations--;
        if (p && (r >> 40) % 3 == 0) {
            unbook(&w->sites[p->site], p->size);
            put(w, label(w, leak_thread_realloc(p, size), REALLOC, size));
        } else if (p) {
            unbook(&w->sites[p->site], p->size);
            free(p);
        } else if ((r >> 40) % 8 == 0) {
            put(w, label(w, leak_thread_calloc(size), CALLOC, size));
        } else if ((r >> 40) % 8 == 1) {
            put(w, label(w, leak_thread_memalign(size), MEMALIGN, size));
        } else {
            put(w, label(w, leak_thread_malloc(size), MALLOC, size));
        }
    }
}

static void *run(void *argument)
{
    struct worker *w = argument;
    /* The C library allocates for a new thread and frees what it had cached for one that ends: let the one lie before the
     * trace, and the other behind it. */
    pthread_barrier_wait(&start);
    work(w);
    pthread_barrier_wait(&end);
    pthread_barrier_wait(&leave);
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned long n = victim_number(argc, argv, 2, 16), operations = victim_number(argc, argv, 3, 100000);
    victim_require(n >= 1 && n <= MAX_THREADS, "1 to 64 threads");
    pthread_barrier_init(&start, NULL, (unsigned)n + 1);
    pthread_barrier_init(&end, NULL, (unsigned)n + 1);
    pthread_barrier_init(&leave, NULL, (unsigned)n + 1);
    for (unsigned long i = 0; i < n; i++) {
        struct worker *w = &workers[i];
        w->seed = 0x9e3779b97f4a7c15u * (i + 1);
        w->operations = operations / n;
        memcpy(w->sites, empty_sites, sizeof empty_sites);
        victim_require(pthread_create(&w->thread, NULL, run, w) == 0, "pthread_create");
    }
    victim_begin(argc, argv);
    pthread_barrier_wait(&start);
    pthread_barrier_wait(&end);

    struct site sum[SITES];
    memcpy(sum, empty_sites, sizeof sum);
    for (unsigned long i = 0; i < n; i++)
        for (int s = 0; s < SITES; s++) {
            sum[s].allocs += workers[i].sites[s].allocs;
            sum[s].alloc_bytes += workers[i].sites[s].alloc_bytes;
            sum[s].frees += workers[i].sites[s].frees;
            sum[s].free_bytes += workers[i].sites[s].free_bytes;
        }
    report_all(sum, SITES);
    victim_end();
    pthread_barrier_wait(&leave);
    for (unsigned long i = 0; i < n; i++)
        pthread_join(workers[i].thread, NULL);
    return 0;
}
