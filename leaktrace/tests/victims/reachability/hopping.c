/* Blocks whose only pointer never stays in its place, beside others that are lost.
 *
 *     hopping wait|run [MEGABYTES [HOPPERS [LOST [MILLIONS]]]]
 *
 * A thread moves the pointers about among words of a heap of so many megabytes, as fast as it can: to an empty word,
 * and the old one is cleared before. At each moment the pointer is in one word, or in the thread's register. With
 * `wait` that goes on until the test's byte, with `run` for so many millions of moves; in both the process ends in the
 * midst of it. The heap is of blocks of 1 MiB, which are still reachable and of which nothing is said.
 */
#include "expect.h"

#include <pthread.h>
#include <stdatomic.h>

#define MEBIBYTE ((size_t)1 << 20)
#define MOST 4096
#define WORDS (MEBIBYTE / sizeof(void *))

static void *volatile *heap[MOST];
static size_t megabytes, hoppers;
/* Where each hopper is. */
static void *volatile *places[64];
static atomic_ulong moves;

static uint64_t next(uint64_t *seed)
{
    uint64_t x = *seed;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *seed = x;
}

static void *volatile *empty_word(uint64_t *seed)
{
    for (;;) {
        uint64_t random = next(seed);
        void *volatile *word = &heap[(random >> 32) % megabytes][random % WORDS];
        if (*word == NULL)
            return word;
    }
}

static void *move(void *unused)
{
    uint64_t seed = 0x9e3779b97f4a7c15u;
    (void)unused;
    for (;;) {
        for (size_t i = 0; i < hoppers; i++) {
            void *volatile *to = empty_word(&seed);
            void *pointer = *places[i];
            *places[i] = NULL;
            *to = pointer;
            places[i] = to;
        }
        atomic_fetch_add_explicit(&moves, hoppers, memory_order_relaxed);
    }
    return NULL;
}

SITE_FN static void make_heap(void)
{
    for (size_t i = 0; i < megabytes; i++) {
        heap[i] = malloc(MEBIBYTE);
        victim_require(heap[i] != NULL, "malloc failed");
        memset((void *)heap[i], 0, MEBIBYTE);
    }
}

SITE_FN static void make_hoppers(void)
{
    uint64_t seed = 1;
    for (size_t i = 0; i < hoppers; i++) {
        places[i] = empty_word(&seed);
        *places[i] = BLOCK(5001 + 2 * i, REACHABLE);
    }
}

SITE_FN static void lose(size_t lost)
{
    for (size_t i = 0; i < lost; i++)
        forget(BLOCK(7001 + 2 * i, LOST));
}

int main(int argc, char **argv)
{
    megabytes = victim_number(argc, argv, 2, 200);
    hoppers = victim_number(argc, argv, 3, 16);
    size_t lost = victim_number(argc, argv, 4, 16), millions = victim_number(argc, argv, 5, 100);
    victim_require(megabytes > 0 && megabytes <= MOST && hoppers > 0 && hoppers <= 64 && lost < 900, "out of range");
    victim_begin(argc, argv);
    CASE(make_heap);
    CASE(make_hoppers);
    lose(lost);
    scrub();
    pthread_t thread;
    victim_require(pthread_create(&thread, NULL, move, NULL) == 0, "a thread could not be started");
    while (moves < (victim_waits ? hoppers : millions * 1000000))
        usleep(1000);
    judged();
    report_fact("moves", moves);
    return 0;
}
