/* Pointers on the stacks of threads: in frames that are in use, in the red zone under them, and in what is left below. */
#include "waiting.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* In a frame of a thread that waits deeper. */
static void *in_a_frame(void *unused)
{
    void *volatile local = BLOCK(1001, REACHABLE);
    wait_for_ever();
    forget(local);
    return unused;
}

SITE_FN static void hold_in_a_frame(void)
{
    start(in_a_frame);
}

/* In the red zone, the 128 bytes under the stack pointer that a function that calls nothing may use; and under that. */
static volatile uintptr_t inverted_red, inverted_below;

static void *in_the_red_zone(void *unused)
{
    /* memcheck takes what the stack never reached for mapped memory as any other. */
    scrub();
    WAIT_AFTER("mov %[red], %%rax\n\tnot %%rax\n\tmov %%rax, -120(%%rsp)\n\t"
               "mov %[below], %%rax\n\tnot %%rax\n\tmov %%rax, -1024(%%rsp)\n\txor %%eax, %%eax",
               [red] "m"(inverted_red) COMMA[below] "m"(inverted_below), "cc");
    return unused;
}

SITE_FN static void hold_in_the_red_zone(void)
{
    inverted_red = masked(BLOCK(1011, REACHABLE " lsan=definitely_lost # it begins at the stack pointer"));
    inverted_below = masked(BLOCK(1013, LOST));
    start(in_the_red_zone);
}

/* In frames that were left, farther below than the red zone. This stack is not scrubbed: the words are all there. */
static void *in_dead_frames(void *unused)
{
    fill_dead_frames(masked(BLOCK(1021, LOST)));
    WAIT_AFTER("xor %%ebx, %%ebx\n\txor %%r9d, %%r9d", [unused] "m"(there), "rbx", "r9");
    return unused;
}

SITE_FN static void hold_in_dead_frames(void)
{
    start(in_dead_frames);
}

/* On the stack of a thread that ended and was joined, which the C library keeps for the next. */
static void *end(void *unused)
{
    fill_dead_frames(masked(BLOCK(1031, LOST)));
    return unused;
}

SITE_FN static void hold_on_an_ended_threads_stack(void)
{
    pthread_t thread;
    victim_require(pthread_create(&thread, NULL, end, NULL) == 0, "a thread could not be started");
    pthread_join(thread, NULL);
}

/* On a stack that the program gave the thread: a block, and mapped memory. */
static void *volatile stack_in_a_block;

static void *in_a_frame_in_a_block(void *unused)
{
    void *volatile local = BLOCK(1041, REACHABLE);
    wait_for_ever();
    forget(local);
    return unused;
}

static void *in_a_frame_of_a_mapping(void *unused)
{
    void *volatile local = BLOCK(1043, REACHABLE);
    wait_for_ever();
    forget(local);
    return unused;
}

SITE_FN static void start_on(void *stack, size_t size, void *(*run)(void *))
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    victim_require(pthread_attr_setstack(&attributes, stack, size) == 0, "pthread_attr_setstack");
    start_with(&attributes, run, NULL);
}

#define STACK (256 * 1024)

/* The threads' descriptors lie on these stacks too, and the list of them holds the stacks by pointers into their middle. */
SITE_FN static void hold_on_given_stacks(void)
{
    stack_in_a_block = BLOCK(STACK + 1, REACHABLE);
    start_on((void *)(((uintptr_t)stack_in_a_block + 4095) & ~(uintptr_t)4095), STACK - 4096, in_a_frame_in_a_block);
    void *mapped = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    victim_require(mapped != MAP_FAILED, "mmap");
    start_on(mapped, STACK, in_a_frame_of_a_mapping);
}

/* On the alternate stack of a thread that waits in a handler: the handler's frame there, and the frame that was
 * interrupted, and the register that was interrupted, which the kernel put on the alternate stack. */
static char alternate[4 * DEAD_STACK];
static volatile uintptr_t inverted_interrupted;

static void handle(int unused)
{
    (void)unused;
    void *volatile local = BLOCK(1051, REACHABLE);
    wait_for_ever();
    forget(local);
}

static void *interrupted(void *unused)
{
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    victim_require(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_ONSTACK};
    victim_require(sigaction(SIGUSR2, &action, NULL) == 0, "sigaction");
    void *volatile local = BLOCK(1053, REACHABLE);
    inverted_interrupted = masked(BLOCK(1055, REACHABLE));
    long self = syscall(SYS_gettid);
    scrub();
    __asm__ volatile("mov %[inverted], %%r12\n\tnot %%r12\n\tsyscall\n\txor %%r12d, %%r12d"
                     : "+a"((long){SYS_tgkill})
                     : [inverted] "m"(inverted_interrupted), "D"((long)getpid()), "S"(self), "d"((long)SIGUSR2)
                     : "rcx", "r11", "r12", "memory");
    forget(local);
    return unused;
}

SITE_FN static void hold_on_an_alternate_stack(void)
{
    start(interrupted);
}

/* In the frame of the first thread, at whose end it is still in use: the process ends deeper. */
SITE_FN static void hold_in_the_first_threads_frame(void)
{
    void *volatile local = BLOCK(1061, REACHABLE);
    judged();
    exit(local == NULL);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(hold_in_a_frame);
    CASE(hold_in_the_red_zone);
    CASE(hold_in_dead_frames);
    CASE(hold_on_given_stacks);
    CASE(hold_on_an_alternate_stack);
    /* The last thread of all: the next would use its stack again. */
    CASE(hold_on_an_ended_threads_stack);
    hold_in_the_first_threads_frame();
    return 0;
}
