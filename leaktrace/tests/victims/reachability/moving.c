/* Blocks whose only pointers are in a block that `realloc` moves, time and again.
 *
 *     moving wait|run [ROUNDS]
 *
 * The old block is the last one of the heap as soon as it is freed, so that its pages are given back to the kernel: while that
 * goes on, the pointers are only in the new one, which `realloc` has not returned yet. One thread does so until ROUNDS are over.
 */
#include "expect.h"

#include <malloc.h>

#define HELD 64
#define OLD ((size_t)300 << 10)
#define NEW ((size_t)350 << 10)

/* The block with the pointers, and where it is moved to. */
static void *volatile block, *volatile hole;
static void *volatile apart;

/* The only pointers are at the end of the block, of which nothing is left when it is given back. */
static void *volatile *in(void *block)
{
    return (void *volatile *)((char *)block + OLD) - HELD;
}

static void *need(void *block)
{
    victim_require(block != NULL, "an allocation that must succeed failed");
    return block;
}

SITE_FN static void *leak_held(size_t size)
{
    return filled(need(malloc(size)), size);
}

int main(int argc, char **argv)
{
    unsigned long rounds = victim_number(argc, argv, 2, 1000), moved = 0;
    /* The last of the heap is given back at once, and nothing is mapped alone; a small block stays where it is when it is freed,
     * until there is a request for a large one. */
    mallopt(M_TRIM_THRESHOLD, 64 << 10);
    mallopt(M_TOP_PAD, 0);
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    victim_begin(argc, argv);
    hole = need(malloc(NEW));
    apart = need(malloc(40));
    void *first[HELD];
    for (int i = 0; i < HELD; i++)
        first[i] = leak_held(5001);
    block = need(malloc(OLD));
    for (int i = 0; i < HELD; i++) {
        in(block)[i] = first[i];
        first[i] = NULL;
        KEEP_FRAME();
    }
    scrub();
    for (unsigned long i = 0; i < rounds; i++) {
        void *last = need(malloc(64));
        free(hole);
        free(last);
        uintptr_t before = (uintptr_t)block;
        hole = need(realloc(block, NEW));
        moved += (uintptr_t)hole != before;
        /* A new one at the end of the heap, to which all goes back. */
        void *next = need(malloc(OLD));
        memcpy(next, hole, OLD);
        block = next;
    }
    scrub();
    report_fact("moved", moved);
    victim_end();
    return 0;
}
