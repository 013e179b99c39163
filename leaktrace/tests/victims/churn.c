/* Threads that come and go while they leak: stacks and thread ids are used again, and what a thread leaked stays.
 *
 *     churn wait|run THREADS
 */
#include "victim.h"

#include <pthread.h>

#define BATCH 8

enum { CHURN, SITES };
static struct site sites[SITES] = {SITE(leak_churn)};
static void *volatile last;

SITE_FN static void *leak_churn(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

static void *run(void *argument)
{
    size_t i = (size_t)argument;
    last = leak_churn(10 + i % 90);
    free(leak_churn(4000));
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned long n = victim_number(argc, argv, 2, 200);
    victim_begin(argc, argv);
    for (size_t i = 0; i < n; i += BATCH) {
        pthread_t threads[BATCH];
        for (size_t j = 0; j < BATCH; j++) {
            victim_require(pthread_create(&threads[j], NULL, run, (void *)(i + j)) == 0, "pthread_create");
            book(&sites[CHURN], 10 + (i + j) % 90);
            book(&sites[CHURN], 4000);
            unbook(&sites[CHURN], 4000);
        }
        for (size_t j = 0; j < BATCH; j++)
            pthread_join(threads[j], NULL);
    }
    report_site(&sites[CHURN]);
    victim_end();
    return 0;
}
