/* Threads that free blocks of the time before and end: what they free, and what the C library frees for them at their ends.
 *
 *     ending_threads wait|run THREADS
 *
 * Each thread frees OLD blocks that its process had before, and small blocks of its own, and that is the last it does.
 */
#include "victim.h"

#include <pthread.h>

#define MAX_THREADS 64
#define OLD 5
#define OWN 3

static struct site leak = SITE(leak_beside);
static void *old[MAX_THREADS][OLD];

SITE_FN static void *leak_beside(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

static void *run(void *blocks)
{
    void *own[OWN];
    for (int i = 0; i < OWN; i++) {
        own[i] = malloc(40);
        __asm__ volatile("" : "+r"(own[i]));
    }
    for (int i = 0; i < OWN; i++)
        free(own[i]);
    for (int i = 0; i < OLD; i++)
        free(((void **)blocks)[i]);
    return NULL;
}

int main(int argc, char **argv)
{
    int threads = argc > 2 ? atoi(argv[2]) : 4;
    victim_require(threads > 0 && threads <= MAX_THREADS, "THREADS is out of range");
    for (int t = 0; t < threads; t++)
        for (int i = 0; i < OLD; i++)
            old[t][i] = malloc(100 + 16 * i);
    victim_begin(argc, argv);
    for (int t = 0; t < threads; t++) {
        pthread_t thread;
        victim_require(pthread_create(&thread, NULL, run, old[t]) == 0, "a thread could not be started");
        victim_require(pthread_join(thread, NULL) == 0, "a thread did not end");
    }
    void *p = leak_beside(77);
    book(&leak, 77);
    report_site(&leak);
    report_fact("early_frees", (uint64_t)threads * OLD);
    victim_end();
    return p == NULL;
}
