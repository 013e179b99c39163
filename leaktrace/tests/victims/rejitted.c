/* Leaks below code that was made at run time and whose place was then given to code of another name, and below code that stays.
 *
 *     rejitted wait|run
 */
#include "victim.h"
#include <sys/mman.h>

enum { OLD, NEW, STAYS, SITES };
static struct site sites[SITES] = {SITE(leak_old), SITE(leak_new), SITE(leak_stays)};

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

#define PAGE 4096
#define BLOCKS 5

static void *kept[SITES][BLOCKS];

#define LEAK_FN(name, site) \
    SITE_FN static void name(void) \
    { \
        size_t at = sites[site].allocs, size = 50 + 100 * (size_t)(site); \
        kept[site][at] = malloc(size); \
        victim_require(kept[site][at] != NULL, "out of memory"); \
        book(&sites[site], size); \
        KEEP_FRAME(); \
    }

LEAK_FN(leak_old, OLD)
LEAK_FN(leak_new, NEW)
LEAK_FN(leak_stays, STAYS)

static FILE *names;

/* Puts the function there and names it. */
static void make(char *code, const char *name)
{
    memcpy(code, template_begin, (size_t)(template_end - template_begin));
    fprintf(names, "%lx %lx %s\n", (unsigned long)code, (unsigned long)(template_end - template_begin), name);
    fflush(names);
}

SITE_FN static void through(char *code, void (*leaf)(void))
{
    for (int i = 0; i < BLOCKS; i++)
        ((void (*)(void (*)(void)))(void *)code)(leaf);
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    /* What it writes with takes no memory from the allocator. */
    static char buffer[PAGE], path[64];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
    names = fopen(path, "w");
    victim_require(names != NULL, "no map of names");
    setvbuf(names, buffer, _IOFBF, sizeof buffer);
    char *code = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    victim_require(code != MAP_FAILED, "mmap");
    make(code, "jit_old");
    make(code + 1024, "jit_stays");
    victim_begin(argc, argv);
    through(code, leak_old);
    through(code + 1024, leak_stays);
    make(code, "jit_new");
    through(code, leak_new);
    report_all(sites, SITES);
    victim_end();
    unlink(path);
    return 0;
}
