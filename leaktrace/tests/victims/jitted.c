/* Leaks below code that was made at run time: with frame pointers, as just-in-time compilers keep them, and without unwind
 * tables. Names for it stand in /tmp/perf-PID.map.
 *
 *     jitted wait|run
 *
 * What it calls was built without frame pointers, so that the way leads by tables, by frame pointers, and by tables again.
 */
#include "made_code.h"
#include "made_names.h"

enum { BEFORE, LATER, FLIPPED, SITES };
static struct site sites[SITES] = {SITE(leak_before), SITE(leak_later), SITE(leak_flipped)};

/* Calls itself until its first argument is 0, and then its second. */
extern const char recursive_begin[], recursive_end[];
__asm__(".section .rodata\n"
        "recursive_begin:\n"
        "push %rbp\n"
        "mov %rsp, %rbp\n"
        "dec %edi\n"
        "je 1f\n"
        "call recursive_begin\n"
        "pop %rbp\n"
        "ret\n"
        "1: call *%rsi\n"
        "pop %rbp\n"
        "ret\n"
        "recursive_end:\n"
        ".text\n");

#define DEPTH 20
#define BLOCKS 20

typedef void jitted_fn(int depth, leaf_fn *leaf);

static void *kept[SITES][BLOCKS];

LEAK_FN(leak_before, BEFORE)
LEAK_FN(leak_later, LATER)
LEAK_FN(leak_flipped, FLIPPED)

static char *map(int protection)
{
    char *code = mmap(NULL, PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    victim_require(code != MAP_FAILED, "mmap");
    return code;
}

/* Puts the function there and names it. */
static jitted_fn *make(char *code, const char *name)
{
    made_names_put(code, recursive_begin, recursive_end, name);
    return (jitted_fn *)code;
}

SITE_FN static void through(jitted_fn *jitted, leaf_fn *leaf)
{
    for (int i = 0; i < BLOCKS; i++)
        jitted(DEPTH, leaf);
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    made_names_begin();
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
    made_names_end();
    return 0;
}
