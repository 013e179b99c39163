/* Memory is taken from mmap and never given back; malloc is hardly used. usage: mapping_only wait|run MEBIBYTES */
#include "victim.h"

#include <sys/mman.h>

static struct site sites[] = {SITE(passing_new)};

SITE_FN static char *passing_new(void)
{
    char *block = malloc(1000);
    KEEP_FRAME();
    book(&sites[0], 1000);
    return block;
}

SITE_FN static void pool_grow(void)
{
    void *pool = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    victim_require(pool != MAP_FAILED, "mmap");
    memset(pool, 1, 1 << 20);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    for (unsigned long rounds = victim_number(argc, argv, 2, 64); rounds > 0; rounds--) {
        pool_grow();
        char *block = passing_new();
        free(block);
        unbook(&sites[0], 1000);
    }
    report_all(sites, 1);
    victim_end();
    return 0;
}
