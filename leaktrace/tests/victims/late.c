/* Blocks from before the trace that go during it: none of them may be booked, and none may spoil what is booked.
 *
 *     late wait|run [BLOCKS]
 */
#include "victim.h"

#define ROUNDS 40

enum { LATE, REALLOCED, SITES };
static struct site sites[SITES] = {SITE(leak_late), SITE(leak_realloced)};

SITE_FN static void *leak_late(size_t size)
{
    void *p = malloc(size);
    book(&sites[LATE], size);
    return p;
}

/* Its block was unknown; from here on it is known. */
SITE_FN static void *leak_realloced(void *early, size_t size)
{
    void *p = realloc(early, size);
    victim_require(p != NULL, "realloc failed");
    book(&sites[REALLOCED], size);
    return p;
}

int main(int argc, char **argv)
{
    static void *early[ROUNDS], *kept[2 * ROUNDS];
    for (int i = 0; i < ROUNDS; i++)
        early[i] = malloc(100 + (size_t)i);
    victim_begin(argc, argv);

    unsigned long freed = 0, reallocated = 0;
    for (int i = 0; i < ROUNDS; i++) {
        if (i % 4 == 0) {
            kept[ROUNDS + i] = leak_realloced(early[i], 3000 + (size_t)i);
            reallocated++;
        } else {
            free(early[i]);
            freed++;
        }
        /* The allocator hands the freed addresses out again at once. */
        kept[i] = leak_late(100 + (size_t)i);
        if (i % 5 == 0) {
            free(kept[i]);
            unbook(&sites[LATE], 100 + (size_t)i);
        }
    }
    report_all(sites, SITES);
    report_fact("early_frees", freed);
    report_fact("early_reallocs", reallocated);
    victim_end();
    return 0;
}
