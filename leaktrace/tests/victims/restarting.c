/* A program with an allocator of its own whose `free` begins again after it has made something ready, by a jump to its own
 * beginning, as glibc 2.43's does: here in every call.
 *
 *     restarting wait|run
 */
#include "victim.h"

#define EARLY 5
#define ROUNDS 40

static char room[1 << 20];
static size_t used;

/* No block is ever given out twice. */
void *malloc(size_t size)
{
    size_t bytes = (size + 31) & ~(size_t)15;
    if (used + bytes > sizeof room)
        return NULL;
    char *block = room + used;
    used += bytes;
    return block + 16 - ((uintptr_t)block & 15);
}

void *calloc(size_t count, size_t size)
{
    return malloc(count * size);
}

void *realloc(void *old, size_t size)
{
    char *p = malloc(size);
    if (p && old)
        memcpy(p, old, size);
    return p;
}

int ready;

__asm__(".text\n"
        ".globl free\n"
        ".type free, @function\n"
        "free:\n"
        "    .cfi_startproc\n"
        "    test %rdi, %rdi\n"
        "    je 1f\n"
        "    cmpl $0, ready(%rip)\n"
        "    je 2f\n"
        "    movl $0, ready(%rip)\n"
        "1:  ret\n"
        "2:  movl $1, ready(%rip)\n"
        "    jmp free\n"
        "    .cfi_endproc\n"
        ".size free, .-free\n");

static struct site leak = SITE(leak_some);

SITE_FN static void *leak_some(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

int main(int argc, char **argv)
{
    void *early[EARLY];
    for (int i = 0; i < EARLY; i++)
        early[i] = malloc(100);
    victim_begin(argc, argv);
    for (int i = 0; i < ROUNDS; i++) {
        void *p = malloc(64);
        __asm__ volatile("" : "+r"(p));
        free(p);
    }
    for (int i = 0; i < EARLY; i++)
        free(early[i]);
    void *p = leak_some(77);
    book(&leak, 77);
    report_site(&leak);
    report_fact("early_frees", EARLY);
    victim_end();
    return p == NULL;
}
