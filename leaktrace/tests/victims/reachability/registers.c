/* Pointers in registers of threads that wait in a system call, and in what setjmp() saved of registers.
 *
 * Such a thread takes its block from a variable that holds the address inverted and inverts it in the register: it
 * never is in memory. At the end of the process these threads end in their system calls.
 */
#include "waiting.h"

#include <setjmp.h>

#define NOT_SEEN " valgrind=definitely_lost # it looks at general registers only"

/* For all threads, one after the other. */
static volatile uintptr_t inverted;

/* Waits with what these instructions load. */
#define WAIT_WITH(loads, ...) WAIT_AFTER(loads, [inverted] "m"(inverted), __VA_ARGS__)

static void *in_rbx(void *unused)
{
    WAIT_WITH("mov %[inverted], %%rbx\n\tnot %%rbx", "rbx");
    return unused;
}

static void *in_r12(void *unused)
{
    WAIT_WITH("mov %[inverted], %%r12\n\tnot %%r12", "r12");
    return unused;
}

/* A register that the system call takes an argument in: here one that it does not look at. */
static void *in_r9(void *unused)
{
    WAIT_WITH("mov %[inverted], %%r9\n\tnot %%r9", "r9");
    return unused;
}

#define INVERTED_IN(vector) \
    "pcmpeqd %%xmm1, %%xmm1\n\tmovq %[inverted], %%" vector "\n\tpxor %%xmm1, %%" vector "\n\tpxor %%xmm1, %%xmm1"

static void *in_xmm7(void *unused)
{
    WAIT_WITH(INVERTED_IN("xmm7"), "xmm1", "xmm7");
    return unused;
}

/* In the upper half of what AVX added. */
static void *in_ymm8(void *unused)
{
    WAIT_WITH(INVERTED_IN("xmm9") "\n\tvinsertf128 $1, %%xmm9, %%ymm8, %%ymm8\n\tvpxor %%xmm9, %%xmm9, %%xmm9",
              "xmm1", "xmm8", "xmm9");
    return unused;
}

/* In the base of a segment, which runtimes use for thread-local storage of their own: by arch_prctl(ARCH_SET_GS), whose
 * numbers these are (<asm/prctl.h>). */
static void *in_gs_base(void *unused)
{
    WAIT_WITH("mov %[inverted], %%rsi\n\tnot %%rsi\n\tmov $158, %%eax\n\tmov $0x1001, %%edi\n\tsyscall", "rbx");
    return unused;
}

/* In no system call, which is where a thread is stopped at any instruction. */
static void *in_r13_spinning(void *unused)
{
    __asm__ volatile("mov %[inverted], %%r13\n\tnot %%r13\n\tmovl $1, %[there]\n1:\tpause\n\tjmp 1b"
                     : [there] "=m"(there)
                     : [inverted] "m"(inverted)
                     : "r13", "memory");
    return unused;
}

#define REGISTER_CASE(name, size, kind)       \
    SITE_FN static void hold_##name(void)     \
    {                                         \
        inverted = masked(BLOCK(size, kind)); \
        start(name);                          \
    }

REGISTER_CASE(in_rbx, 1001, REACHABLE)
REGISTER_CASE(in_r12, 1003, REACHABLE)
REGISTER_CASE(in_r9, 1005, REACHABLE)
REGISTER_CASE(in_r13_spinning, 1007, REACHABLE)
REGISTER_CASE(in_xmm7, 1011, REACHABLE NOT_SEEN)
REGISTER_CASE(in_ymm8, 1013, REACHABLE NOT_SEEN)
REGISTER_CASE(in_gs_base, 1015, REACHABLE NOT_SEEN)

/* Calls setjmp() with the block whose inverted address is given in a register that setjmp() saves. */
void save_rbx(jmp_buf to, uintptr_t inverted_block);
void save_rbp(jmp_buf to, uintptr_t inverted_block);
#define SAVE(name, pointer)                                                                                    \
    #name ":\n\tpush %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\tsub $8, %rsp\n\t"       \
    "xor %ebx, %ebx\n\txor %ebp, %ebp\n\txor %r12d, %r12d\n\txor %r13d, %r13d\n\txor %r14d, %r14d\n\t"            \
    "xor %r15d, %r15d\n\tmov %rsi, " pointer "\n\tnot " pointer "\n\tcall _setjmp@PLT\n\t"                        \
    "add $8, %rsp\n\tpop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\tret\n"
__asm__(".text\n" SAVE(save_rbx, "%rbx") SAVE(save_rbp, "%rbp"));

static jmp_buf with_rbx, with_rbp;

SITE_FN static void hold_in_saved_rbx(void)
{
    save_rbx(with_rbx, masked(BLOCK(1021, REACHABLE)));
}

/* glibc saves rbp, rsp and the return address inverted by the thread's pointer guard and rotated. */
SITE_FN static void hold_in_saved_rbp(void)
{
#ifdef __GLIBC__
    save_rbp(with_rbp, masked(BLOCK(1023, REACHABLE " valgrind=definitely_lost lsan=definitely_lost # glibc mangles rbp")));
#else
    save_rbp(with_rbp, masked(BLOCK(1023, REACHABLE)));
#endif
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(hold_in_rbx);
    CASE(hold_in_r12);
    CASE(hold_in_r9);
    CASE(hold_in_xmm7);
    if (__builtin_cpu_supports("avx"))
        CASE(hold_in_ymm8);
    CASE(hold_in_gs_base);
    if (argc > 2)
        CASE(hold_in_r13_spinning);
    CASE(hold_in_saved_rbx);
    CASE(hold_in_saved_rbp);
    judged();
    return 0;
}
