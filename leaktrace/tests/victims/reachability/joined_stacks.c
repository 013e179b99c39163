/* Pointers below a stack pointer that are in use all the same: the stack lies in one mapping with other things, or a handler
 * runs on an array in the frame that it has interrupted. And memory behind the heap that the program took from the break. */
#define _GNU_SOURCE
#include "waiting.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096
#define STACK (64 * PAGE)

/* Mapped memory with a guard page before it. */
SITE_FN static char *guarded(size_t size)
{
    char *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    victim_require(mapped != MAP_FAILED && mprotect(mapped, PAGE, PROT_NONE) == 0, "mmap or mprotect");
    return mapped + PAGE;
}

/* The alternate stack is an array in the thread's own frame, above the one that the signal interrupts. */
static void handle(int unused)
{
    (void)unused;
    wait_for_ever();
}

SITE_FN static void interrupted(void)
{
    void *volatile local = BLOCK(1501, REACHABLE);
    raise(SIGUSR2);
    forget(local);
}

static void *on_an_array_of_its_own(void *unused)
{
    char alternate[4 * DEAD_STACK];
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    victim_require(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    interrupted();
    return unused;
}

SITE_FN static void hold_in_an_interrupted_frame(void)
{
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK};
    victim_require(sigaction(SIGUSR2, &action, NULL) == 0, "sigaction");
    start(on_an_array_of_its_own);
}

/* A thread's stack at the end of memory that begins with a table of the program. */
static void *waits(void *unused)
{
    wait_for_ever();
    return unused;
}

SITE_FN static void hold_below_a_given_stack(void)
{
    char *memory = guarded(PAGE + 2 * STACK);
    *(void **)(memory + 64) = BLOCK(1511, REACHABLE);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    victim_require(pthread_attr_setstack(&attributes, memory + STACK, STACK) == 0, "pthread_attr_setstack");
    start_with(&attributes, waits, NULL);
}

/* A coroutine's stack right below that of a thread that has no guard page. */
static ucontext_t outside, inside;

static void hold_and_go_back(void)
{
    void *volatile local = BLOCK(1521, REACHABLE);
    /* So that no register of the context has an address in the block. */
    scrub();
    swapcontext(&inside, &outside);
    forget(local);
}

SITE_FN static void hold_below_a_stack_without_a_guard(void)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setguardsize(&attributes, 0);
    pthread_attr_setstacksize(&attributes, STACK);
    start_with(&attributes, waits, NULL);
    getcontext(&inside);
    inside.uc_stack.ss_sp = guarded(PAGE + STACK);
    inside.uc_stack.ss_size = STACK;
    makecontext(&inside, hold_and_go_back, 0);
    swapcontext(&outside, &inside);
}

/* What a thread has left below its stack pointer is dead. */
static void *leaves(void *unused)
{
    fill_dead_frames(masked(BLOCK(1531, LOST)));
    WAIT_AFTER("xor %%ebx, %%ebx\n\txor %%r9d, %%r9d", [unused] "m"(there), "rbx", "r9");
    return unused;
}

SITE_FN static void lose_below_a_given_stack(void)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    victim_require(pthread_attr_setstack(&attributes, guarded(PAGE + STACK), STACK) == 0, "pthread_attr_setstack");
    start_with(&attributes, leaves, NULL);
}

/* Behind the heap, which does not grow any more. */
static void *volatile *own;

SITE_FN static void hold_behind_the_heap(void)
{
    void *block = BLOCK(1541, REACHABLE);
    own = sbrk(2 * PAGE);
    victim_require(own != (void *)-1, "sbrk");
    own[5] = block;
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(hold_below_a_given_stack);
    CASE(hold_below_a_stack_without_a_guard);
    CASE(lose_below_a_given_stack);
    CASE(hold_in_an_interrupted_frame);
    CASE(hold_behind_the_heap);
    judged();
    return 0;
}
