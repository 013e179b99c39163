/* Works in short rounds, and keeps or loses blocks meanwhile.
 *
 *     losing wait|run ROUNDS [churn]
 *
 * A round takes 10 ms. In each it makes a block that it keeps, and one whose address it forgets; with `churn` it makes and
 * frees many blocks, loses none, and takes as long as that takes. It says how often a sleep was cut short: a tracer that
 * stops it must not be noticed.
 */
#include "victim.h"

#include <time.h>

#define KEPT 100000
#define CHURNED 64

enum { LOST, PRESERVED, CHURN, SITES };
static struct site sites[SITES] = {SITE(leak_lost), SITE(leak_kept), SITE(leak_churn)};
static void *volatile kept[KEPT];
static void *volatile churned[CHURNED];

SITE_FN static void leak_lost(size_t size)
{
    void *p = malloc(size);
    book(&sites[LOST], size);
    /* The calls that follow leave no copy of it. */
    victim_require(p != NULL, "out of memory");
    KEEP_FRAME();
}

SITE_FN static void *leak_kept(size_t size)
{
    void *p = malloc(size);
    book(&sites[PRESERVED], size);
    return p;
}

SITE_FN static void *leak_churn(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

int main(int argc, char **argv)
{
    long rounds = (long)victim_number(argc, argv, 2, 100);
    int churns = argc > 3 && strcmp(argv[3], "churn") == 0;
    unsigned interrupted = 0;
    victim_begin(argc, argv);
    for (long i = 0; i < rounds; i++) {
        if (churns) {
            for (int j = 0; j < CHURNED; j++) {
                free(churned[j]);
                churned[j] = leak_churn(64 + 16 * (size_t)j);
            }
            continue;
        }
        struct timespec nap = {0, 10000000};
        leak_lost(1000);
        if (i < KEPT)
            kept[i] = leak_kept(100);
        /* A stop alone never makes it return early. */
        if (nanosleep(&nap, NULL) != 0)
            interrupted++;
    }
    report_all(sites, SITES);
    victim_say("%ld rounds, %u interrupted\n", rounds, interrupted);
    return 0;
}
