/* Shares memory that is full of numbers and that it has never used by the mapping that it keeps, so that nothing of it is in its page
 * table, and allocates a block. */
#include "victim.h"
#include <sys/mman.h>

enum { BYTES = 64 << 20 };

static struct site sites[] = {SITE(leak_kept)};
static void *kept;

SITE_FN static void leak_kept(void)
{
    kept = malloc(100);
    book(&sites[0], 100);
    KEEP_FRAME();
}

static uint64_t *shared_memory(int file)
{
    void *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    victim_require(memory != MAP_FAILED, "no shared memory");
    return memory;
}

int main(int argc, char **argv)
{
    int file = memfd_create("untouched", MFD_CLOEXEC);
    victim_require(file >= 0 && ftruncate(file, BYTES) == 0, "no file in memory");
    uint64_t *words = shared_memory(file);
    for (size_t i = 0; i < BYTES / sizeof *words; i++)
        words[i] = i;
    munmap(words, BYTES);
    shared_memory(file);
    victim_begin(argc, argv);
    leak_kept();
    report_all(sites, 1);
    victim_end();
    return 0;
}
