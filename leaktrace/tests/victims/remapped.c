/* Maps one file over another as code, by itself, and leaks below both: nothing tells when exactly.
 *
 *     remapped wait|run
 *
 * It says "remapped" and waits before it goes on with the second file. With MOVED it maps the second file elsewhere and moves it
 * over the first, of which the kernel keeps no record.
 */
#include "made_code.h"
#include <fcntl.h>

enum { FIRST, SECOND, LATER, STABLE, SITES };
static struct site sites[SITES] = {SITE(leak_first), SITE(leak_second), SITE(leak_later), SITE(leak_stable)};

#define BLOCKS 5

static void *kept[SITES][BLOCKS];

LEAK_FN(leak_first, FIRST)
LEAK_FN(leak_second, SECOND)
LEAK_FN(leak_later, LATER)
LEAK_FN(leak_stable, STABLE)

/* A file with the code somewhere in it, mapped there. */
static char *map(const char *name, size_t at, char *where)
{
    static char page[PAGE];
    char path[64];
    snprintf(path, sizeof path, "/tmp/%s-%d", name, (int)getpid());
    memset(page, 0xcc, sizeof page);
    memcpy(page + at, template_begin, (size_t)(template_end - template_begin));
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    victim_require(file >= 0 && write(file, page, sizeof page) == PAGE, "a file of code");
    char *code = mmap(where, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | (where ? MAP_FIXED : 0), file, 0);
    victim_require(code != MAP_FAILED, "mmap");
    close(file);
    return code;
}

static void forget(const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/%s-%d", name, (int)getpid());
    unlink(path);
}

SITE_FN static void through(char *code, leaf_fn *leaf)
{
    for (int i = 0; i < BLOCKS; i++)
        call_made(code, leaf);
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    /* Volatile, so that it stays one call. */
    for (volatile int i = 0; i < BLOCKS; i++)
        leak_stable();
    char *code = map("code-first", 0, NULL);
    through(code, leak_first);
#ifdef MOVED
    char *second = map("code-second", 64, NULL);
    victim_require(mremap(second, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, code) == code, "mremap");
#else
    map("code-second", 64, code);
#endif
    through(code + 64, leak_second);
    victim_say("remapped\n");
    victim_await();
    through(code + 64, leak_later);
    report_all(sites, SITES);
    victim_end();
    forget("code-first");
    forget("code-second");
    return 0;
}
