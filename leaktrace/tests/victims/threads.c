/* Threads that allocate, reallocate and free each other's blocks.
 *
 *     threads wait|run THREADS OPERATIONS
 *
 * Blocks travel through a small array of slots that all threads exchange atomically. A block that one thread frees or
 * reallocates is handed out to another at once, so that an observer that books late or drops late gets it wrong.
 * OPERATIONS counts calls of the allocator, of all threads together.
 */
#include "victim.h"

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

#include "workers.h"

static _Atomic(struct block *) slots[SLOTS];

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
    while (w->operations > 0) {
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

int main(int argc, char **argv)
{
    unsigned long n = victim_number(argc, argv, 2, 16), operations = victim_number(argc, argv, 3, 100000);
    victim_require(n >= 1, "a thread at least");
    workers_prepare(n, operations);
    victim_begin(argc, argv);
    workers_let_work();
    struct site sum[SITES];
    memcpy(sum, empty_sites, sizeof sum);
    workers_sum(n, sum);
    report_all(sum, SITES);
    victim_end();
    workers_dismiss(n);
    return 0;
}
