/* Threads that hold something and wait for ever; they end with their process. */
#ifndef WAITING_H
#define WAITING_H
#include "expect.h"

#include <pthread.h>

/* The thread that was started last has what it holds. */
static volatile int there;
/* A pipe that nobody writes to. */
static int never[2];

/* Executes these instructions and says so, then waits for ever, and changes no register but those that are named and those
 * that a system call takes; of these none has anything left. */
#define WAIT_AFTER(instructions, inputs, ...)                                                                          \
    __asm__ volatile(instructions                                                                                      \
                     "\n\txor %%r8d, %%r8d\n\txor %%r10d, %%r10d\n\txor %%r11d, %%r11d\n\txor %%ecx, %%ecx\n\t"        \
                     "movl $1, %[there]\n"                                                                             \
                     "1:\txor %%eax, %%eax\n\tmovl %[from], %%edi\n\tlea -8(%%rsp), %%rsi\n\tmov $1, %%edx\n\t"        \
                     "syscall\n\tjmp 1b"                                                                               \
                     : [there] "=m"(there)                                                                             \
                     : [from] "m"(never[0]), inputs                                                                    \
                     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r10", "r11", "memory", __VA_ARGS__)

/* Between two of those inputs. */
#define COMMA ,

/* Waits for ever, with a frame like any other function. */
SITE_FN static void wait_for_ever(void)
{
    scrub();
    there = 1;
    for (;;) {
        char byte;
        if (read(never[0], &byte, 1) < 0)
            continue;
    }
}

/* Fills frames that are left when this returns with an address, farther below than the red zone. */
__attribute__((unused)) SITE_FN static void fill_dead_frames(uintptr_t inverted)
{
    void *volatile dead[1000];
    /* The highest words are left to the red zone. */
    for (int i = 0; i < 900; i++)
        dead[i] = (void *)~inverted;
    forget(dead[0]);
}

/* Starts a thread that waits as above, and returns once it has what it holds. */
SITE_FN static void start_with(const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    if (never[1] == 0)
        victim_require(pipe(never) == 0, "pipe");
    there = 0;
    pthread_t thread;
    victim_require(pthread_create(&thread, attributes, run, argument) == 0, "a thread could not be started");
    while (!there)
        usleep(1000);
}

__attribute__((unused)) static void start(void *(*run)(void *))
{
    start_with(NULL, run, NULL);
}

#endif
