/* A library with allocation functions and so much code that reading it takes a while. */
#include <stddef.h>

static char pool[1 << 20];
static size_t used;

__attribute__((noinline, used)) void *malloc(size_t size)
{
    void *block = pool + used;
    used = (used + size + 15) & ~(size_t)15 & (sizeof pool - 1);
    return block;
}

__attribute__((noinline, used)) void free(void *block)
{
    __asm__ volatile("" : : "r"(block) : "memory");
}

__asm__(".text\n"
        ".globl bulk\n"
        "bulk: .fill 67108864, 1, 0x90\n"
        "ret\n");
