/* A heap whose pages are in one of three states. usage: fragmenting wait|run retained|pinned|freed MEBIBYTES [early]
 * retained: small blocks side by side, none freed. pinned: all are freed but each sixteenth, so that nearly each page has one left.
 * freed: all are freed but the last, which keeps the break where it is. With `early` half of it is done before the first word.
 * Says what it has counted itself: the pages that its blocks touch, the bytes on them, and with glibc what is resident of its heap
 * (mincore). */
#include "victim.h"

#include <stdint.h>
#include <sys/mman.h>

#define SIZE 240
#define EACH 16
#define PAGE 4096UL
#define MOST_PAGES (1UL << 22)

/* Not among the mappings of an allocator, which private ones may be joined with. */
static char **kept;
static unsigned long blocks;
static struct site sites[] = {SITE(passing_new), SITE(staying_new)};

/* What is to be freed, if anything is. */
SITE_FN static char *passing_new(void)
{
    char *block = malloc(SIZE);
    KEEP_FRAME();
    victim_require(block != NULL, "malloc");
    book(&sites[0], SIZE);
    return memset(block, 1, SIZE);
}

/* What stays. */
SITE_FN static char *staying_new(void)
{
    char *block = malloc(SIZE);
    KEEP_FRAME();
    victim_require(block != NULL, "malloc");
    book(&sites[1], SIZE);
    return memset(block, 2, SIZE);
}

static void *shared(size_t bytes)
{
    void *there = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    victim_require(there != MAP_FAILED, "mmap");
    return there;
}

static int stays(unsigned long block, const char *mode)
{
    if (strcmp(mode, "freed") == 0)
        return block == blocks - 1;
    return strcmp(mode, "retained") == 0 || block % EACH == 0;
}

static void work(unsigned long from, unsigned long to, const char *mode)
{
    for (unsigned long block = from; block < to; block++)
        kept[block] = stays(block, mode) ? staying_new() : passing_new();
    for (unsigned long block = from; block < to; block++)
        if (!stays(block, mode)) {
            free(kept[block]);
            kept[block] = NULL;
            unbook(&sites[0], SIZE);
        }
}

static void report_pages(const char *heap)
{
    static unsigned char there[MOST_PAGES / 64];
    unsigned long held = 0, occupied = 0, resident = 0;
    uintptr_t lowest = UINTPTR_MAX;
    for (unsigned long block = 0; block < blocks; block++)
        if (kept[block] != NULL && (uintptr_t)kept[block] < lowest)
            lowest = (uintptr_t)kept[block];
    char *touched = shared(MOST_PAGES);
    for (unsigned long block = 0; block < blocks; block++) {
        if (kept[block] == NULL)
            continue;
        uintptr_t first = (uintptr_t)kept[block] / PAGE - lowest / PAGE;
        uintptr_t last = ((uintptr_t)kept[block] + SIZE - 1) / PAGE - lowest / PAGE;
        victim_require(last < MOST_PAGES, "the blocks lie far apart");
        touched[first] = touched[last] = 1;
        occupied += SIZE;
    }
    for (unsigned long page = 0; page < MOST_PAGES; page++)
        held += touched[page] * PAGE;
    munmap(touched, MOST_PAGES);
    char *end = sbrk(0);
    victim_require((size_t)(end - heap) / PAGE <= sizeof there, "the heap is too large");
    if (end > heap && mincore((void *)heap, end - heap, there) == 0)
        for (size_t page = 0; page < (size_t)(end - heap) / PAGE; page++)
            resident += (there[page] & 1) * PAGE;
    report_fact("held", held);
    report_fact("occupied", occupied);
    report_fact("resident", resident);
}

int main(int argc, char **argv)
{
    const char *heap = (const char *)(((uintptr_t)sbrk(0) + PAGE - 1) / PAGE * PAGE);
    const char *mode = argc > 2 ? argv[2] : "retained";
    int early = argc > 4 && strcmp(argv[4], "early") == 0;
    blocks = victim_number(argc, argv, 3, 16) << 12;
    kept = shared(blocks * sizeof *kept);
    unsigned long before = early ? blocks / 2 : 0;
    work(0, before, mode);
    if (early) {
        sites[0] = (struct site)SITE(passing_new);
        sites[1] = (struct site)SITE(staying_new);
    }
    victim_begin(argc, argv);
    work(before, blocks, mode);
    report_all(sites, sizeof sites / sizeof *sites);
    report_pages(heap);
    victim_end();
    return 0;
}
