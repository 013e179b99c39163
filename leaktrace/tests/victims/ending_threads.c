/* Threads that free blocks of the time before and end: what they free, and what the C library frees for them at their ends.
 *
 *     ending_threads wait|run THREADS [free|fclose]
 *
 * Each thread frees small blocks of its own and OLD blocks that its process had before, and that is the last it does; or it
 * closes OLD streams, each of which has a buffer.
 */
#include "victim.h"

#include <pthread.h>

#define MAX_THREADS 64
#define OLD 5
#define OWN 3

static struct site leak = SITE(leak_beside);
static void *old[MAX_THREADS][OLD];
static FILE *streams[MAX_THREADS][OLD];

SITE_FN static void *leak_beside(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

static void free_own(void)
{
    void *own[OWN];
    for (int i = 0; i < OWN; i++) {
        own[i] = malloc(40);
        __asm__ volatile("" : "+r"(own[i]));
    }
    for (int i = 0; i < OWN; i++)
        free(own[i]);
}

static void *free_old(void *blocks)
{
    free_own();
    for (int i = 0; i < OLD; i++)
        free(((void **)blocks)[i]);
    return NULL;
}

static void *close_old(void *opened)
{
    free_own();
    for (int i = 0; i < OLD; i++)
        fclose(((FILE **)opened)[i]);
    return NULL;
}

int main(int argc, char **argv)
{
    int threads = argc > 2 ? atoi(argv[2]) : 4;
    victim_require(threads > 0 && threads <= MAX_THREADS, "THREADS is out of range");
    int closes = argc > 3 && strcmp(argv[3], "fclose") == 0;
    for (int t = 0; t < threads; t++)
        for (int i = 0; i < OLD; i++)
            if (closes) {
                streams[t][i] = fopen("/proc/self/status", "r");
                victim_require(streams[t][i] != NULL && fgetc(streams[t][i]) != EOF, "a stream could not be read");
            } else {
                old[t][i] = malloc(100 + 16 * i);
            }
    victim_begin(argc, argv);
    for (int t = 0; t < threads; t++) {
        pthread_t thread;
        int started = closes ? pthread_create(&thread, NULL, close_old, streams[t])
                             : pthread_create(&thread, NULL, free_old, old[t]);
        victim_require(started == 0, "a thread could not be started");
        victim_require(pthread_join(thread, NULL) == 0, "a thread did not end");
    }
    void *p = leak_beside(77);
    book(&leak, 77);
    report_site(&leak);
    /* Of glibc's streams the stream and its buffer. */
    report_fact("early_frees", (uint64_t)threads * OLD * (closes ? 2 : 1));
    victim_end();
    return p == NULL;
}
