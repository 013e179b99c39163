/* Leaks below code that was made at run time: with frame pointers, as just-in-time compilers keep them, and without unwind
 * tables. Names for it stand in /tmp/perf-PID.map.
 *
 *     jitted wait|run
 *
 * What it calls was built without frame pointers, so that the way leads by tables, by frame pointers, and by tables again.
 */
#include "victim.h"
#include <sys/mman.h>

enum { BEFORE, LATER, FLIPPED, SITES };
static struct site sites[SITES] = {SITE(leak_before), SITE(leak_later), SITE(leak_flipped)};

/* Calls itself until its first argument is 0, and then its second. */
extern const char template_begin[], template_end[];
__asm__(".section .rodata\n"
        "template_begin:\n"
        "push %rbp\n"
        "mov %rsp, %rbp\n"
        "dec %edi\n"
        "je 1f\n"
        "call template_begin\n"
        "pop %rbp\n"
        "ret\n"
        "1: call *%rsi\n"
        "pop %rbp\n"
        "ret\n"
        "template_end:\n"
        ".text\n");

#define PAGE 4096
#define DEPTH 20
#define BLOCKS 20

typedef void jitted_fn(int depth, void (*leaf)(void));

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

LEAK_FN(leak_before, BEFORE)
LEAK_FN(leak_later, LATER)
LEAK_FN(leak_flipped, FLIPPED)

static FILE *names;
static char names_path[64];

static char *map(int protection)
{
    char *code = mmap(NULL, PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    victim_require(code != MAP_FAILED, "mmap");
    return code;
}

/* Puts the function there and names it. */
static jitted_fn *make(char *code, const char *name)
{
    memcpy(code, template_begin, (size_t)(template_end - template_begin));
    fprintf(names, "%lx %lx %s\n", (unsigned long)code, (unsigned long)(template_end - template_begin), name);
    fflush(names);
    return (jitted_fn *)code;
}

SITE_FN static void through(jitted_fn *jitted, void (*leaf)(void))
{
    for (int i = 0; i < BLOCKS; i++)
        jitted(DEPTH, leaf);
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    /* What it writes with takes no memory from the allocator. */
    static char buffer[4096];
    snprintf(names_path, sizeof names_path, "/tmp/perf-%d.map", (int)getpid());
    names = fopen(names_path, "w");
    victim_require(names != NULL, "no map of names");
    setvbuf(names, buffer, _IOFBF, sizeof buffer);
    jitted_fn *before = make(map(PROT_READ | PROT_WRITE | PROT_EXEC), "jit_before");
    /* Two pages between which others may come: what lies beside each other is one mapping. */
    mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *writable = map(PROT_READ | PROT_WRITE);
    mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    victim_begin(argc, argv);
    through(before, leak_before);
    through(make(map(PROT_READ | PROT_WRITE | PROT_EXEC), "jit_later"), leak_later);
    jitted_fn *flipped = make(writable, "jit_flipped");
    victim_require(mprotect(writable, PAGE, PROT_READ | PROT_EXEC) == 0, "mprotect");
    through(flipped, leak_flipped);
    report_all(sites, SITES);
    victim_end();
    unlink(names_path);
    return 0;
}
