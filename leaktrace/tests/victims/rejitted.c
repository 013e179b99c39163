/* Leaks below code that was made at run time and whose place was then given to code of another name, and below code that stays.
 *
 *     rejitted wait|run
 */
#include "made_code.h"
#include "made_names.h"

enum { OLD, NEW, STAYS, SITES };
static struct site sites[SITES] = {SITE(leak_old), SITE(leak_new), SITE(leak_stays)};

#define BLOCKS 5

static void *kept[SITES][BLOCKS];

LEAK_FN(leak_old, OLD)
LEAK_FN(leak_new, NEW)
LEAK_FN(leak_stays, STAYS)

/* Puts the function there and names it. */
static void make(char *code, const char *name)
{
    made_names_put(code, template_begin, template_end, name);
}

SITE_FN static void through(char *code, leaf_fn *leaf)
{
    for (int i = 0; i < BLOCKS; i++)
        call_made(code, leaf);
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    made_names_begin();
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
    made_names_end();
    return 0;
}
