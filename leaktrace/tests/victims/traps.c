/* Calls of malloc on every way through it: sizes that a thread's cache serves, the arena's bins, mappings of their own, and none at
 * all; in one thread, in two, in a forked child; nested calls from several depths. Each run does the same.
 *
 *     traps wait|run OPERATIONS
 */
#include "victim.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { SLOTS = 512, THREADS = 2 };

static const uint32_t sizes[] = {0, 1, 24, 25, 64, 100, 500, 1000, 1032, 1033, 2000, 5000, 40000};
static volatile size_t huge = (size_t)1 << 46, negative = (size_t)-1;

struct worker {
    uint64_t state;
    struct site site;
    unsigned long operations;
    void *slots[SLOTS];
    size_t sizes[SLOTS];
};

static uint32_t next(struct worker *w)
{
    w->state = w->state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(w->state >> 33);
}

SITE_FN static void *traps_malloc(struct worker *w, size_t size, unsigned depth)
{
    void *p;
    if (depth > 0) {
        p = traps_malloc(w, size, depth - 1);
        KEEP_FRAME();
        return p;
    }
    p = malloc(size);
    victim_require(p != NULL, "malloc failed");
    book(&w->site, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *traps_other(struct worker *w, size_t size)
{
    void *p = traps_malloc(w, size, 0);
    KEEP_FRAME();
    return p;
}

/* Frees what is in a slot, before something else comes there. */
static void empty(struct worker *w, uint32_t slot)
{
    if (w->slots[slot])
        unbook(&w->site, w->sizes[slot]);
    free(w->slots[slot]);
}

static void *work(void *argument)
{
    struct worker *w = argument;
    for (unsigned long i = 0; i < w->operations; i++) {
        uint32_t draw = next(w), slot = draw % SLOTS;
        size_t size = sizes[(draw >> 9) % (sizeof sizes / sizeof *sizes)];
        if (draw >> 16 & 1)
            size += draw >> 20 & 15;
        if (i % 997 == 0)
            size = 200000 + i % 5;
        empty(w, slot);
        w->sizes[slot] = size;
        w->slots[slot] = draw >> 12 & 1 ? traps_malloc(w, size, draw >> 13 & 3) : traps_other(w, size);
    }
    return NULL;
}

static void fail(struct worker *w)
{
    struct rlimit whole, low = {64 << 20, 64 << 20};
    victim_require(malloc(negative) == NULL, "malloc(-1)");
    victim_require(malloc(huge) == NULL, "malloc(2^46)");
    victim_require(getrlimit(RLIMIT_AS, &whole) == 0, "getrlimit");
    low.rlim_max = whole.rlim_max;
    victim_require(setrlimit(RLIMIT_AS, &low) == 0, "setrlimit");
    for (int i = 0; i < 100; i++) {
        victim_require(malloc((size_t)128 << 20) == NULL, "malloc beyond the limit");
        empty(w, (uint32_t)i);
        w->sizes[i] = 64;
        w->slots[i] = traps_malloc(w, 64, 0);
    }
    victim_require(setrlimit(RLIMIT_AS, &whole) == 0, "setrlimit");
}

static struct worker workers[1 + THREADS + 1];

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    unsigned long operations = victim_number(argc, argv, 2, 10000);
    struct site site = SITE(traps_malloc);
    for (unsigned i = 0; i < 1 + THREADS + 1; i++) {
        workers[i].state = i + 1;
        workers[i].operations = operations / (1 + THREADS);
    }
    work(&workers[0]);
    fail(&workers[0]);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        victim_require(pthread_create(&threads[i], NULL, work, &workers[1 + i]) == 0, "pthread_create");
    for (int i = 0; i < THREADS; i++)
        victim_require(pthread_join(threads[i], NULL) == 0, "pthread_join");
    for (int i = 0; i < 1 + THREADS; i++) {
        site.allocs += workers[i].site.allocs;
        site.alloc_bytes += workers[i].site.alloc_bytes;
        site.frees += workers[i].site.frees;
        site.free_bytes += workers[i].site.free_bytes;
    }
    report_site(&site);
    pid_t child = fork();
    if (child == 0) {
        workers[1 + THREADS].operations = operations / 10;
        work(&workers[1 + THREADS]);
        victim_end();
        _exit(0);
    }
    int status;
    victim_require(waitpid(child, &status, 0) == child && status == 0, "the child failed");
    victim_end();
    return 0;
}
