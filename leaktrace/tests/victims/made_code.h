/* For victims that make code at run time: functions with frame pointers and without unwind tables, as just-in-time compilers make
 * them, and what leaks below those.
 */
#ifndef MADE_CODE_H
#define MADE_CODE_H

#include "victim.h"
#include <sys/mman.h>

#define PAGE 4096

/* Calls its argument. */
extern const char template_begin[], template_end[];
__asm__(".section .rodata\n"
        "template_begin:\n"
        "push %rbp\n"
        "mov %rsp, %rbp\n"
        "call *%rdi\n"
        "pop %rbp\n"
        "ret\n"
        "template_end:\n"
        ".text\n");

typedef void leaf_fn(void);

/* Calls the code, which calls the leaf. */
static inline void call_made(char *code, leaf_fn *leaf)
{
    ((void (*)(leaf_fn *))(void *)code)(leaf);
}

/* A function that leaks a block of a size of its own each time; `sites` and `kept` are the victim's. */
#define LEAK_FN(name, site) \
    SITE_FN static void name(void) \
    { \
        size_t at = sites[site].allocs, size = 50 + 100 * (size_t)(site); \
        kept[site][at] = malloc(size); \
        victim_require(kept[site][at] != NULL, "out of memory"); \
        book(&sites[site], size); \
        KEEP_FRAME(); \
    }

#endif
