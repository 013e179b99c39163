/* Loads known values into registers and spins; another thread says "ready" once they are there. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static atomic_int loaded;

static void *report(void *nothing)
{
    while (!atomic_load(&loaded))
        ;
    printf("ready\n");
    fflush(stdout);
    for (;;)
        pause();
    return nothing;
}

int main(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, report, NULL) != 0)
        return 1;
#if defined __x86_64__
    static const unsigned long vector[2] = { 0x2222333344445555, 0x6666777788889999 };
    __asm__ volatile("movabs $0x1badb002deadbeef, %%rbx\n"
                     "movdqu %1, %%xmm7\n"
                     "movl $1, %0\n"
                     "1: pause\n"
                     "jmp 1b\n"
                     : "=m"(loaded)
                     : "m"(vector)
                     : "rbx", "xmm7", "memory");
#elif defined __aarch64__
    static const unsigned long vector[2] = { 0x2222333344445555, 0x6666777788889999 };
    __asm__ volatile("ldr x19, =0x1badb002deadbeef\n"
                     "ldr q7, [%1]\n"
                     "mov w9, #1\n"
                     "str w9, [%0]\n"
                     "1: yield\n"
                     "b 1b\n"
                     :
                     : "r"(&loaded), "r"(vector)
                     : "x19", "w9", "v7", "memory");
#endif
    return 2;
}
