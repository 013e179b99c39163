/* What goes in and out all the time, for traces that look in windows: a leak, a cache that is full, blocks that come and go, and
 * blocks that become larger and smaller.
 *
 *     windows wait [threads | pairs | forks]
 *
 * Its work comes in steps, 400 in a second, until the test says something; in each it leaks one block. `threads`: in each step a thread begins and ends, so that the C
 * library gives up what it has kept for it. `pairs`: four threads allocate and free as fast as they can. `forks`: a child does the work.
 */
#include "victim.h"

#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>

enum { STEPS_PER_SECOND = 400, CACHED = 2000, LEAK = 80, ENTRY = 150, PASSING = 200, OWN = 56 };

static struct site leaked = SITE_OUTSTANDING_ONLY(leak_here);
static void *cache[CACHED];
static void *volatile kept;
static volatile int is_over;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* All of a block is used, so that the process grows by what it leaks. */
SITE_FN static void *leak_here(void)
{
    void *p = malloc(LEAK);
    memset(p, 1, LEAK);
    kept = p;
    book(&leaked, LEAK);
    KEEP_FRAME();
    return p;
}

SITE_FN static void put_into_cache(unsigned long step)
{
    free(cache[step % CACHED]);
    cache[step % CACHED] = malloc(ENTRY);
    KEEP_FRAME();
}

static void come_and_go(void)
{
    void *passing = malloc(PASSING);
    kept = passing;
    free(passing);
    void *resized = malloc(40);
    resized = realloc(resized, 300);
    kept = resized;
    resized = realloc(resized, 60);
    kept = resized;
    free(resized);
}

/* Seven blocks stay in the thread's cache, which the C library frees at its end. */
static void *thread(void *unused)
{
    void *blocks[7];
    for (int i = 0; i < 7; i++)
        kept = blocks[i] = malloc(OWN);
    for (int i = 0; i < 7; i++)
        free(blocks[i]);
    return unused;
}

static void *pairs(void *unused)
{
    while (!is_over) {
        void *p = malloc(OWN);
        kept = p;
        free(p);
    }
    return unused;
}

static void start(pthread_t *started, void *(*routine)(void *))
{
    victim_require(pthread_create(started, NULL, routine, NULL) == 0, "a thread");
}

static int is_told(void)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    return poll(&input, 1, 0) > 0;
}

static void work(int makes_threads)
{
    double begin = now();
    unsigned long step = 0;
    while (!is_told()) {
        leak_here();
        put_into_cache(step);
        come_and_go();
        if (makes_threads) {
            pthread_t started;
            start(&started, thread);
            pthread_join(started, NULL);
        }
        step++;
        /* By the clock, so that slow steps do not make fewer of them. */
        double rest = begin + (double)step / STEPS_PER_SECOND - now();
        if (rest > 0) {
            struct timespec pause = {0, (long)(rest * 1e9)};
            nanosleep(&pause, NULL);
        }
    }
    report_site(&leaked);
    report_fact("steps_per_1000s", (unsigned long)((double)step * 1e3 / (now() - begin)));
}

int main(int argc, char **argv)
{
    const char *mode = argc > 2 ? argv[2] : "";
    for (unsigned long step = 0; step < CACHED; step++)
        put_into_cache(step);
    victim_begin(argc, argv);
    pthread_t pairing[4];
    int is_pairs = strcmp(mode, "pairs") == 0;
    for (int i = 0; i < 4 && is_pairs; i++)
        start(&pairing[i], pairs);
    if (strcmp(mode, "forks") == 0) {
        pid_t child = fork();
        if (child == 0) {
            work(0);
            _exit(0);
        }
        int status;
        victim_require(waitpid(child, &status, 0) == child && status == 0, "the child");
    } else {
        work(strcmp(mode, "threads") == 0);
    }
    is_over = 1;
    victim_await();
    for (int i = 0; i < 4 && is_pairs; i++)
        pthread_join(pairing[i], NULL);
    victim_end();
    return 0;
}
