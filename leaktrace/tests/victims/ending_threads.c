/* Threads that free blocks of the time before and end: what they free, and what the C library frees for them at their ends.
 *
 *     ending_threads wait|run THREADS [free|fclose|detached|last]
 *
 * Each thread frees small blocks of its own and OLD blocks that its process had before, and that is the last it does; or it
 * closes OLD streams, each of which has a buffer. Detached threads end at the same time, so that the C library frees the stacks of
 * some. Or the process ends with a thread that is its last, after the first has ended.
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

static pthread_barrier_t all_there;

static void *end_detached(void *unused)
{
    (void)unused;
    free_own();
    pthread_barrier_wait(&all_there);
    return NULL;
}

static unsigned running(void)
{
    unsigned threads = 0;
    FILE *status = fopen("/proc/self/status", "r");
    victim_require(status != NULL, "there is no /proc/self/status");
    char line[256];
    while (fgets(line, sizeof line, status))
        sscanf(line, "Threads: %u", &threads);
    fclose(status);
    return threads;
}

static void end_side_by_side(unsigned threads)
{
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_barrier_init(&all_there, NULL, threads);
    for (unsigned t = 0; t < threads; t++) {
        pthread_t thread;
        victim_require(pthread_create(&thread, &detached, end_detached, NULL) == 0, "a thread could not be started");
    }
    while (running() > 1)
        usleep(1000);
}

static void report(uint64_t early_frees)
{
    void *p = leak_beside(77);
    __asm__ volatile("" : "+r"(p));
    book(&leak, 77);
    report_site(&leak);
    report_fact("early_frees", early_frees);
    victim_end();
}

/* The first thread stays in the count of threads until its process ends. */
static int first_has_ended(void)
{
    char path[64], line[256] = "";
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
    FILE *state = fopen(path, "r");
    victim_require(state != NULL && fgets(line, sizeof line, state) != NULL, "the first thread is not to be seen");
    fclose(state);
    return strstr(line, ") Z ") != NULL;
}

static void *end_last(void *unused)
{
    (void)unused;
    while (!first_has_ended())
        usleep(1000);
    free_own();
    report(0);
    return NULL;
}

int main(int argc, char **argv)
{
    int threads = argc > 2 ? atoi(argv[2]) : 4;
    victim_require(threads > 0 && threads <= MAX_THREADS, "THREADS is out of range");
    const char *how = argc > 3 ? argv[3] : "free";
    int closes = strcmp(how, "fclose") == 0;
    int frees = strcmp(how, "free") == 0;
    for (int t = 0; t < threads; t++)
        for (int i = 0; i < OLD; i++)
            if (closes) {
                streams[t][i] = fopen("/proc/self/status", "r");
                victim_require(streams[t][i] != NULL && fgetc(streams[t][i]) != EOF, "a stream could not be read");
            } else if (frees) {
                old[t][i] = malloc(100 + 16 * i);
            }
    victim_begin(argc, argv);
    pthread_t thread;
    if (strcmp(how, "last") == 0) {
        victim_require(pthread_create(&thread, NULL, end_last, NULL) == 0, "a thread could not be started");
        pthread_exit(NULL);
    }
    if (strcmp(how, "detached") == 0)
        end_side_by_side((unsigned)threads);
    for (int t = 0; t < threads && (closes || frees); t++) {
        int started = closes ? pthread_create(&thread, NULL, close_old, streams[t])
                             : pthread_create(&thread, NULL, free_old, old[t]);
        victim_require(started == 0, "a thread could not be started");
        victim_require(pthread_join(thread, NULL) == 0, "a thread did not end");
    }
    /* Of glibc's streams the stream and its buffer. */
    report((uint64_t)threads * OLD * (closes ? 2 : frees));
    return 0;
}
