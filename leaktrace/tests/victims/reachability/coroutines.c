/* Coroutines: stacks in blocks and in mapped memory, suspended and running, of the program's own kind and of the C
 * library's.
 *
 * The first thread ends the process on a coroutine's stack, so that its stack pointer lies in a block then too.
 */
#include "expect.h"

#include <sys/mman.h>
#ifdef __GLIBC__
#include <ucontext.h>
#endif

#define STACK (4 * DEAD_STACK)

/* Pushes what a call must keep, leaves the stack pointer at `from` and goes on with the other one. */
void switch_stack(void *volatile *from, void *to);
__asm__(".text\n"
        "switch_stack:\n\tpush %rbp\n\tpush %rbx\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
        "mov %rsp, (%rdi)\n\tmov %rsi, %rsp\n\t"
        "pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbx\n\tpop %rbp\n\tret\n");

/* Where the first thread's own stack and each coroutine is suspended. */
static void *volatile first, *volatile kept, *volatile unkept, *volatile mapped, *volatile last;
/* What the coroutine that begins puts into its frame. */
static volatile uintptr_t inverted;

/* A stack pointer with which switch_stack() enters the function. */
static void *prepared(void *stack, void (*enter)(void))
{
    uintptr_t *top = (uintptr_t *)(((uintptr_t)stack + STACK) & ~(uintptr_t)15) - 8;
    memset(top, 0, 8 * sizeof *top);
    top[6] = (uintptr_t)enter;
    return top;
}

/* One with the block in its frame, which never goes on. */
#define COROUTINE(name)                           \
    static void run_##name(void)                  \
    {                                             \
        void *volatile local = (void *)~inverted; \
        scrub();                                  \
        switch_stack(&name, first);               \
        forget(local);                            \
    }
COROUTINE(kept)
COROUTINE(unkept)
COROUTINE(mapped)

SITE_FN static void suspend(void *stack, void (*enter)(void), uintptr_t block)
{
    inverted = block;
    void *entry = prepared(stack, enter);
    switch_stack(&first, entry);
}

/* In a block that the program holds by its start. */
static void *volatile stack_of_kept;

SITE_FN static void suspend_kept(void)
{
    stack_of_kept = BLOCK(STACK + 1, REACHABLE);
    suspend(stack_of_kept, run_kept, masked(BLOCK(1001, REACHABLE)));
}

/* In a block that only the stack pointer, which is suspended in a variable, points into. */
SITE_FN static void suspend_unkept(void)
{
    void *stack = BLOCK(STACK + 3, POSSIBLE);
    suspend(stack, run_unkept, masked(BLOCK(1003, POSSIBLE)));
}

/* In mapped memory. */
SITE_FN static void suspend_mapped(void)
{
    void *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    victim_require(stack != MAP_FAILED, "mmap");
    suspend(stack, run_mapped,
            masked(BLOCK(1005, REACHABLE " lsan=definitely_lost # it looks into no mappings of the program's own")));
}

#ifdef __GLIBC__
/* By makecontext() and swapcontext(), in a block. */
static ucontext_t outside, inside;
static void *volatile stack_of_inside;

static void run_inside(void)
{
    void *volatile local = (void *)~inverted;
    scrub();
    swapcontext(&inside, &outside);
    forget(local);
}

SITE_FN static void suspend_inside(void)
{
    stack_of_inside = BLOCK(STACK + 5, REACHABLE);
    inverted = masked(BLOCK(1011, REACHABLE));
    getcontext(&inside);
    inside.uc_stack.ss_sp = stack_of_inside;
    inside.uc_stack.ss_size = STACK;
    makecontext(&inside, run_inside, 0);
    swapcontext(&outside, &inside);
}
#endif

/* In the frame of the one that runs at the end, whose block nothing but the stack pointer points into; and in frames
 * that it has left. Undecided: in a block that is a stack the words under the stack pointer are as dead as on any
 * stack. */
SITE_FN static void fill_dead_frames(uintptr_t block)
{
    void *volatile dead[64];
    for (int i = 0; i < 64; i++)
        dead[i] = (void *)~block;
    forget(dead[0]);
}

SITE_FN static void fill_deeper(uintptr_t block)
{
    volatile char deep[DEAD_STACK + 4096];
    deep[0] = deep[DEAD_STACK] = 0;
    fill_dead_frames(block);
    KEEP_FRAME();
}

#define BY_RSP " valgrind=possibly_lost # to it the stack pointer is a pointer into the middle"

SITE_FN static void leave_frames(void)
{
    fill_deeper(masked(BLOCK(1023, LOST "/" REACHABLE " lsan=still_reachable # it takes all of the block")));
}

static void run_last(void)
{
    void *volatile local = BLOCK(1021, REACHABLE BY_RSP);
    leave_frames();
    judged();
    exit(local == NULL);
}

/* In the frame of the first thread, whose own stack is suspended. */
SITE_FN static void run_to_the_end(void)
{
    void *volatile local = BLOCK(1031, REACHABLE);
    void *stack = BLOCK(STACK + 7, REACHABLE BY_RSP);
    void *entry = prepared(stack, run_last);
    stack = NULL;
    forget(stack);
    switch_stack(&last, entry);
    forget(local);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(suspend_kept);
    CASE(suspend_unkept);
    CASE(suspend_mapped);
#ifdef __GLIBC__
    CASE(suspend_inside);
#endif
    run_to_the_end();
    return 0;
}
