/* How a program of this directory says what the verdict on each of its blocks must be.
 *
 * A block is known by its size, which no other block of the program has, unless a comment says so. Its kind stands next
 * to its allocation, and the program prints a line about it:
 *
 *     SIZE KIND[/KIND] [heuristics=KIND] [valgrind=KIND] [lsan=KIND] [# REASON]
 *
 * The first KIND is what the verdict must say; a second one is accepted as well, and the comment beside it says what is
 * undecided. `heuristics` is the kind with all of Valgrind's leak-check heuristics, `valgrind` and `lsan` are the kinds of
 * memcheck and of LeakSanitizer; each of them stands only where it differs. LeakSanitizer takes every interior pointer, so
 * that its answer to "possibly lost" is "still reachable", which is not said each time.
 *
 * Programs are started as victim.h says. In `wait` the kinds hold while the program waits after "done", in `run` they hold
 * at its end. What is printed in one of the two ways only has to hold in that one only.
 */
#ifndef EXPECT_H
#define EXPECT_H
#include "../victim.h"

#define LOST "definitely_lost"
#define INDIRECT "indirectly_lost"
#define POSSIBLE "possibly_lost"
#define REACHABLE "still_reachable"
/* LeakSanitizer's reason for another answer than ours. */
#define IN_A_CYCLE " # it calls every member of a cycle indirect"

#ifdef __cplusplus
extern "C" {
#endif
/* There in programs that are built with -fsanitize=leak. */
__attribute__((weak)) int __lsan_do_recoverable_leak_check(void);
#ifdef __cplusplus
}
#endif

/* Says what is expected of the block of this size. */
#define EXPECT(size, kind) victim_say("%zu %s\n", (size_t)(size), kind)

/* A new block of this size, and what is expected of it. A macro: so each block has a stack of its own, by which memcheck
 * and LeakSanitizer tell blocks apart. */
#define BLOCK(size, kind) (EXPECT(size, kind), filled(malloc(size), size))

/* What this run expects: the first while it waits, the second at its end. */
#define EITHER(waiting, ending) (victim_waits ? (waiting) : (ending))

/* Fills a new block with bytes that are no address, so that it holds nothing of the block that was there before. */
__attribute__((unused)) static void *filled(void *block, size_t size)
{
    victim_require(block != NULL, "an allocation that must succeed failed");
    memset(block, 0x5a, size);
    __asm__ volatile("" : "+r"(block) : : "memory");
    return block;
}

/* Keeps the compiler from knowing that nobody uses the block any more. */
__attribute__((unused)) static void forget(void *block)
{
    __asm__ volatile("" : : "r"(block) : "memory");
}

/* A pointer in a form that nobody takes for one, for programs that have to find a block again. */
__attribute__((unused)) static uintptr_t masked(const void *block)
{
    return ~(uintptr_t)block;
}

#define DEAD_STACK 65536

SITE_FN static void scrub_stack(void)
{
    volatile char dead[DEAD_STACK];
    for (size_t i = 0; i < sizeof dead; i++)
        dead[i] = 0;
    KEEP_FRAME();
}

/* Overwrites what functions that have returned left on the stack and in the registers that a call may change. */
__attribute__((unused)) static void scrub(void)
{
    scrub_stack();
    __asm__ volatile("xor %%eax, %%eax\n\txor %%ecx, %%ecx\n\txor %%edx, %%edx\n\txor %%esi, %%esi\n\txor %%edi, %%edi\n\t"
                     "xor %%r8d, %%r8d\n\txor %%r9d, %%r9d\n\txor %%r10d, %%r10d\n\txor %%r11d, %%r11d\n\t"
                     "pxor %%xmm0, %%xmm0\n\tpxor %%xmm1, %%xmm1\n\tpxor %%xmm2, %%xmm2\n\tpxor %%xmm3, %%xmm3\n\t"
                     "pxor %%xmm4, %%xmm4\n\tpxor %%xmm5, %%xmm5\n\tpxor %%xmm6, %%xmm6\n\tpxor %%xmm7, %%xmm7\n\t"
                     "pxor %%xmm8, %%xmm8\n\tpxor %%xmm9, %%xmm9\n\tpxor %%xmm10, %%xmm10\n\tpxor %%xmm11, %%xmm11\n\t"
                     "pxor %%xmm12, %%xmm12\n\tpxor %%xmm13, %%xmm13\n\tpxor %%xmm14, %%xmm14\n\tpxor %%xmm15, %%xmm15"
                     :
                     :
                     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4",
                       "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
                       "memory");
}

/* Runs one case, a function that is never inlined, and leaves no copy of its variables. */
#define CASE(function) \
    do {               \
        function();    \
        scrub();       \
    } while (0)

/* Everything is in its place: the moment that `wait` is about. */
__attribute__((unused)) static void judged(void)
{
    scrub();
    if (__lsan_do_recoverable_leak_check)
        __lsan_do_recoverable_leak_check();
    victim_end();
    scrub();
}

#endif
