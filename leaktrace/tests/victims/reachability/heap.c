/* Words in the allocator's memory that must not hold a block: in freed chunks, behind what was asked for, and the
 * allocator's own.
 *
 * First everything is allocated, then it is freed, and nothing is allocated after that: so the words stay. The sizes are
 * those of glibc's chunks; with other allocators the same must come out.
 */
#include "expect.h"

#include <malloc.h>
#include <pthread.h>

/* Keeps a chunk from merging with the one behind it. */
static void *volatile guards[16];
static int guard_count;

static void put_guard(void)
{
    guards[guard_count++] = filled(malloc(24), 24);
}

/* A chunk that will be freed, and holds the block at this offset, behind what free() writes itself. */
static uintptr_t holding(size_t chunk, size_t offset, void *block)
{
    char *holder = filled(malloc(chunk), chunk);
    memcpy(holder + offset, &block, sizeof block);
    return masked(holder);
}

static void release(uintptr_t holder)
{
    free((void *)~holder);
}

/* A block that is handed out again with what it held. It is a live block, and nobody but memcheck knows that its owner
 * has not written that word; memcheck hands out no such block. */
static void *volatile reused;

SITE_FN static void hold_in_a_reused_block(void)
{
    void **holder = filled(malloc(1063), 1063), *block = filled(malloc(1061), 1061);
    put_guard();
    holder[8] = block;
    uintptr_t address = masked(holder);
    free(holder);
    reused = malloc(1063);
    EXPECT(1063, REACHABLE);
    EXPECT(1061, masked(reused) == address ? REACHABLE " lsan=definitely_lost # its allocator fills new blocks" : LOST);
}

/* For the cache of the thread, which a chunk of up to 1,032 bytes gets into. */
static uintptr_t cached;

SITE_FN static void hold_in_a_cached_chunk(void)
{
    cached = holding(500, 64, BLOCK(1001, LOST));
    put_guard();
}

/* For a fastbin, where the eighth small chunk goes. */
static uintptr_t fast[8];

SITE_FN static void hold_in_a_fast_chunk(void)
{
    for (int i = 0; i < 7; i++)
        fast[i] = masked(filled(malloc(100), 100));
    fast[7] = holding(100, 64, BLOCK(1011, LOST));
    put_guard();
}

/* For the unsorted list. main_arena points at its chunks, and so at the last 8 bytes of a block of 16 n + 8 bytes that
 * lies before one. */
static uintptr_t big;

SITE_FN static void hold_in_a_big_chunk(void)
{
    void *held = BLOCK(1021, LOST);
    forget(BLOCK(2008, LOST));
    big = holding(5000, 640, held);
    put_guard();
}

/* For what realloc() cuts off. */
static uintptr_t long_one;
static void *volatile shrunk;

SITE_FN static void hold_in_what_is_cut_off(void)
{
    long_one = holding(4000, 2400, BLOCK(1041, LOST));
    put_guard();
}

SITE_FN static void cut_off(void)
{
    shrunk = realloc((void *)~long_one, 1043);
    EXPECT(1043, REACHABLE);
}

/* Between the size that was asked for and the size of the chunk. */
static void *volatile roomy;

SITE_FN static void hold_behind_the_end(void)
{
    char *holder = BLOCK(1049, REACHABLE);
    size_t usable = malloc_usable_size(holder), word = 1056;
    if (usable >= word + sizeof(void *)) {
        void *block = BLOCK(1053, LOST);
        memcpy(holder + word, &block, sizeof block);
    }
    roomy = holder;
}

SITE_FN static void of_no_bytes(void)
{
    forget(malloc(0));
    EXPECT(0, LOST);
}

/* The last of a thread's arena, before its top. */
static void *allocate_last(void *unused)
{
    (void)unused;
    forget(BLOCK(2024, LOST));
    scrub();
    return NULL;
}

SITE_FN static void last_of_an_arena(void)
{
    pthread_t thread;
    victim_require(pthread_create(&thread, NULL, allocate_last, NULL) == 0, "a thread could not be started");
    pthread_join(thread, NULL);
}

/* For the top of the heap. When the chunk has become a part of that, main_arena's pointer to the top is one to the last 8
 * bytes of the block before it. */
static uintptr_t last;

SITE_FN static void hold_in_the_top(void)
{
    void *held = BLOCK(1031, LOST);
    forget(BLOCK(2040, LOST));
    last = holding(6000, 800, held);
}

SITE_FN static void free_all(void)
{
    release(last);
    release(big);
    cut_off();
    release(cached);
    for (int i = 0; i < 8; i++)
        release(fast[i]);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(hold_in_a_reused_block);
    CASE(hold_in_a_cached_chunk);
    CASE(hold_in_a_fast_chunk);
    CASE(hold_in_a_big_chunk);
    CASE(hold_in_what_is_cut_off);
    CASE(hold_behind_the_end);
    CASE(of_no_bytes);
    CASE(last_of_an_arena);
    CASE(hold_in_the_top);
    CASE(free_all);
    judged();
    return 0;
}
