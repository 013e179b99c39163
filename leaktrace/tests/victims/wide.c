/* An allocator whose pointers use more than 48 bits: tags in the highest byte, addresses as five-level page tables give them,
 * the kernel's; and ordinary ones in between. Threads allocate, reallocate and free each other's blocks.
 *
 *     wide wait|run THREADS OPERATIONS KEPT [free]
 *
 * Nothing lies where its pointers lead, so that any will do, and several differ in nothing but the bits above the 48th. A
 * pointer that was given back is handed out next. KEPT blocks are allocated at the end, and freed again with `free`. What is
 * outstanding then is told block by block.
 */
#include "victim.h"

#include <stdatomic.h>

#define HANDLES (1 << 16)
#define KEPT_BYTES 40

enum { MALLOC, CALLOC, REALLOC, MEMALIGN, KEPT, SITES };
static const struct site empty_sites[SITES] = {
    SITE(leak_wide_malloc), SITE(leak_wide_calloc), SITE(leak_wide_realloc), SITE(leak_wide_memalign), SITE(leak_wide_kept),
};

/* What each handle's block is booked as, while it is outstanding. */
static struct {
    uint32_t site, size;
} blocks[HANDLES];

static uint32_t freed[HANDLES], n_freed, n_used;
static atomic_flag lock = ATOMIC_FLAG_INIT;

/* A quarter of each kind. Of the first two kinds, many share their lower 48 bits. */
static void *pointer_of(uint32_t handle)
{
    uint64_t n = handle >> 2;
    switch (handle & 3) {
    case 0:
        return (void *)((0x80 + (n & 0x3f)) << 56 | (0x7f0000000000 + (n >> 6) * 64));
    case 1:
        return (void *)((1 + (n & 0x7f)) << 48 | (0x550000000000 + (n >> 7) * 64));
    case 2:
        return (void *)(0xffff888000000000 + n * 64);
    default:
        return (void *)(0x100000000000 + n * 64);
    }
}

static uint32_t handle_of(void *pointer)
{
    uint64_t bits = (uint64_t)pointer;
    if (bits >= 0xffff888000000000)
        return (uint32_t)((bits - 0xffff888000000000) / 64) << 2 | 2;
    if (bits >> 63)
        return (uint32_t)(((bits & 0xffffffffffff) - 0x7f0000000000) / 64 << 6 | ((bits >> 56) - 0x80)) << 2;
    if (bits >> 48)
        return (uint32_t)(((bits & 0xffffffffffff) - 0x550000000000) / 64 << 7 | ((bits >> 48) - 1)) << 2 | 1;
    return (uint32_t)((bits - 0x100000000000) / 64) << 2 | 3;
}

static void *hand_out(void)
{
    while (atomic_flag_test_and_set(&lock)) {
    }
    victim_require(n_freed > 0 || n_used < HANDLES, "the allocator has no handle left");
    uint32_t handle = n_freed > 0 ? freed[--n_freed] : n_used++;
    atomic_flag_clear(&lock);
    return pointer_of(handle);
}

static void give_back(void *pointer)
{
    while (atomic_flag_test_and_set(&lock)) {
    }
    freed[n_freed++] = handle_of(pointer);
    atomic_flag_clear(&lock);
}

__attribute__((noinline, used)) void *wide_malloc(size_t size)
{
    void *p = size >> 30 ? NULL : hand_out();
    KEEP_FRAME();
    return p;
}

__attribute__((noinline, used)) void *wide_calloc(size_t n, size_t size)
{
    void *p = (n * size) >> 30 ? NULL : hand_out();
    KEEP_FRAME();
    return p;
}

__attribute__((noinline, used)) int wide_memalign(void **to, size_t alignment, size_t size)
{
    (void)alignment;
    (void)size;
    *to = hand_out();
    KEEP_FRAME();
    return 0;
}

__attribute__((noinline, used)) void wide_free(void *p)
{
    if (p)
        give_back(p);
    KEEP_FRAME();
}

/* As mmap says that it has failed. */
#define FAILED ((void *)-1)

/* Stays in place for even sizes; fails for huge ones. */
__attribute__((noinline, used)) void *wide_realloc(void *p, size_t size)
{
    if (size >> 30)
        return FAILED;
    if (p && size % 2 == 0)
        return p;
    void *q = hand_out();
    if (p)
        give_back(p);
    KEEP_FRAME();
    return q;
}

#include "workers.h"

static _Atomic(void *) slots[SLOTS];
static void *kept[HANDLES];
/* The accounts of the first thread, and in the end of all. */
static struct worker last;

SITE_FN static void *leak_wide_malloc(size_t size)
{
    void *p = wide_malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_wide_calloc(size_t size)
{
    void *p = wide_calloc(1, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_wide_realloc(void *old, size_t size)
{
    void *p = wide_realloc(old, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_wide_memalign(size_t size)
{
    void *p = NULL;
    wide_memalign(&p, 64, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_wide_kept(size_t size)
{
    void *p = wide_malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void fail_to_grow(void *old)
{
    victim_require(wide_realloc(old, (size_t)1 << 40) == FAILED, "a realloc to 2^40 bytes succeeded");
    KEEP_FRAME();
}

static void *label(struct worker *w, void *p, uint32_t site, size_t size)
{
    book(&w->sites[site], size);
    uint32_t handle = handle_of(p);
    blocks[handle].site = site;
    blocks[handle].size = (uint32_t)size;
    return p;
}

static void unlabel(struct worker *w, void *p)
{
    uint32_t handle = handle_of(p);
    unbook(&w->sites[blocks[handle].site], blocks[handle].size);
}

static void put(struct worker *w, void *p)
{
    void *displaced = atomic_exchange(&slots[next(&w->seed) % SLOTS], p);
    if (displaced) {
        unlabel(w, displaced);
        wide_free(displaced);
        w->operations--;
    }
}

static void work(struct worker *w)
{
    while (w->operations > 0) {
        uint64_t r = next(&w->seed), kind = (r >> 40) % 8;
        size_t size = 8 + (r >> 8) % 200;
        void *p = atomic_exchange(&slots[r % SLOTS], NULL);
        w->operations--;
        if (p && kind < 3) {
            unlabel(w, p);
            put(w, label(w, leak_wide_realloc(p, size), REALLOC, size));
        } else if (p && kind == 3) {
            fail_to_grow(p);
            put(w, p);
        } else if (p) {
            unlabel(w, p);
            wide_free(p);
        } else if (kind == 0) {
            put(w, label(w, leak_wide_calloc(size), CALLOC, size));
        } else if (kind == 1) {
            put(w, label(w, leak_wide_memalign(size), MEMALIGN, size));
        } else if (kind == 2) {
            put(w, label(w, leak_wide_realloc(NULL, size), REALLOC, size));
        } else {
            put(w, label(w, leak_wide_malloc(size), MALLOC, size));
        }
    }
}

static void report_block(void *p)
{
    char name[32];
    snprintf(name, sizeof name, "%p", p);
    report_fact(name, blocks[handle_of(p)].size);
}

int main(int argc, char **argv)
{
    unsigned long n = victim_number(argc, argv, 2, 4), operations = victim_number(argc, argv, 3, 10000);
    unsigned long keep = victim_number(argc, argv, 4, 100);
    int frees = argc > 5 && strcmp(argv[5], "free") == 0;
    victim_require(keep <= HANDLES - SLOTS - MAX_THREADS, "65,000 blocks at most");
    workers_prepare(n, operations);
    memcpy(last.sites, empty_sites, sizeof empty_sites);
    victim_begin(argc, argv);
    workers_let_work();
    for (unsigned long i = 0; i < keep; i++)
        kept[i] = label(&last, leak_wide_kept(KEPT_BYTES), KEPT, KEPT_BYTES);
    for (unsigned long i = 0; frees && i < keep; i++) {
        unlabel(&last, kept[i]);
        wide_free(kept[i]);
    }

    workers_sum(n, last.sites);
    for (unsigned long i = 0; i < SLOTS; i++)
        if (slots[i])
            report_block(slots[i]);
    for (unsigned long i = 0; !frees && i < keep; i++)
        report_block(kept[i]);
    report_all(last.sites, SITES);
    victim_end();
    workers_dismiss(n);
    return 0;
}
