/* Words in the allocator's memory that must not hold a block: in freed chunks, behind what was asked for, and the
 * allocator's own.
 *
 * The sizes are those of glibc's chunks; with other allocators the same must come out.
 */
#include "expect.h"

#include <malloc.h>
#include <pthread.h>

/* Keeps chunks from merging with those before and behind them. */
static void *volatile guards[16];
static int guard;

static void put_guard(void)
{
    guards[guard++] = filled(malloc(24), 24);
}

/* Stores the pointer at this offset of a chunk, which is then freed. What free() writes itself lies before. */
static void hold_in_freed(size_t chunk, size_t offset, void *block)
{
    char *holder = filled(malloc(chunk), chunk);
    put_guard();
    memcpy(holder + offset, &block, sizeof block);
    __asm__ volatile("" : : "r"(holder) : "memory");
    free(holder);
}

/* Into the cache of the thread, which a chunk of up to 1,032 bytes gets into. */
SITE_FN static void hold_in_a_cached_chunk(void)
{
    hold_in_freed(500, 64, BLOCK(1001, LOST));
}

/* Into a fastbin, where the eighth small chunk goes. */
SITE_FN static void hold_in_a_fast_chunk(void)
{
    void *chunks[8];
    for (int i = 0; i < 8; i++)
        chunks[i] = filled(malloc(100), 100);
    put_guard();
    ((void **)chunks[7])[8] = BLOCK(1011, LOST);
    for (int i = 0; i < 8; i++)
        free(chunks[i]);
}

/* Into the unsorted list, which glibc's main_arena points at. */
SITE_FN static void hold_in_a_big_chunk(void)
{
    hold_in_freed(5000, 640, BLOCK(1021, LOST));
}

/* At the end of the heap, where the chunk becomes a part of the top. */
SITE_FN static void hold_in_the_top(void)
{
    void *block = BLOCK(1031, LOST);
    char *holder = filled(malloc(6000), 6000);
    ((void **)holder)[100] = block;
    __asm__ volatile("" : : "r"(holder) : "memory");
    free(holder);
}

/* What realloc() cut off. */
static void *volatile shrunk;

SITE_FN static void hold_in_what_was_cut_off(void)
{
    void **holder = filled(malloc(4000), 4000);
    put_guard();
    holder[300] = BLOCK(1041, LOST);
    shrunk = realloc(holder, 1043);
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

/* A lost block of no bytes. */
SITE_FN static void of_no_bytes(void)
{
    forget(malloc(0));
    EXPECT(0, LOST);
}

/* Before a free chunk: main_arena's list of free chunks points at the last 8 bytes of a block of 16 n + 8 bytes. */
SITE_FN static void before_a_free_chunk(void)
{
    void *block = BLOCK(2008, LOST), *freed = filled(malloc(3000), 3000);
    put_guard();
    forget(block);
    free(freed);
}

/* The last of a thread's arena. */
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

/* The last before the top, at which main_arena points: at the last 8 bytes of the block. Nothing is allocated behind it. */
SITE_FN static void last_of_all(void)
{
    forget(BLOCK(2040, LOST));
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(hold_in_a_reused_block);
    CASE(hold_in_the_top);
    CASE(hold_in_a_cached_chunk);
    CASE(hold_in_a_fast_chunk);
    CASE(hold_in_a_big_chunk);
    CASE(hold_in_what_was_cut_off);
    CASE(hold_behind_the_end);
    CASE(of_no_bytes);
    CASE(before_a_free_chunk);
    CASE(last_of_an_arena);
    CASE(last_of_all);
    judged();
    return 0;
}
