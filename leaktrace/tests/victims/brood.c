/* A parent of many short lives, each of which leaks two blocks of SIZE bytes at two sites and frees a third.
 *
 *     brood wait|run COUNT [AT-ONCE [SIZE [fork|exec [PER-SECOND]]]]
 *
 * What all children together asked for is said as facts: they are too many to speak for themselves.
 */
#include "victim.h"

#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

enum { PARENT, SITES };
static struct site sites[SITES] = {SITE(leak_parent)};
extern char **environ;

SITE_FN static void *leak_parent(size_t size)
{
    void *p = malloc(size);
    book(&sites[PARENT], size);
    return p;
}

SITE_FN static void *leak_first(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_second(size_t size)
{
    void *p = calloc(1, size);
    KEEP_FRAME();
    return p;
}

static void leaf(size_t size)
{
    static void *volatile kept[2];
    kept[0] = leak_first(size);
    kept[1] = leak_second(size);
    free(leak_second(size));
    _exit(kept[0] && kept[1] ? 0 : 1);
}

static void await_one(void)
{
    int status;
    victim_require(wait(&status) > 0 && status == 0, "a child failed");
}

/* Sleeps until so many children are due. */
static void pace(const struct timespec *begun, unsigned long children, unsigned long per_second)
{
    struct timespec due = *begun;
    if (per_second == 0)
        return;
    due.tv_sec += (time_t)(children / per_second);
    due.tv_nsec += (long)(children % per_second * 1000000000UL / per_second);
    if (due.tv_nsec >= 1000000000L) {
        due.tv_sec += 1;
        due.tv_nsec -= 1000000000L;
    }
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
        ;
}

int main(int argc, char **argv)
{
    victim_require(argc > 2, "how many?");
    if (strcmp(argv[2], "leaf") == 0)
        leaf(victim_number(argc, argv, 3, 100));
    unsigned long count = victim_number(argc, argv, 2, 10), at_once = victim_number(argc, argv, 3, 1);
    unsigned long size = victim_number(argc, argv, 4, 100), per_second = victim_number(argc, argv, 6, 0);
    int executes = argc > 5 && strcmp(argv[5], "exec") == 0;
    static void *kept;
    static char size_text[32];
    static char *arguments[] = {"brood", "run", "leaf", size_text, NULL};
    struct timespec begun;
    snprintf(size_text, sizeof size_text, "%lu", size);
    victim_begin(argc, argv);
    kept = leak_parent(size);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (unsigned long i = 0; i < count; i++) {
        if (i >= at_once)
            await_one();
        pace(&begun, i, per_second);
        pid_t pid;
        if (executes) {
            victim_require(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, arguments, environ) == 0, "posix_spawn");
        } else {
            pid = fork();
            victim_require(pid >= 0, "fork");
            if (pid == 0)
                leaf(size);
        }
    }
    for (unsigned long i = 0; i < (count < at_once ? count : at_once); i++)
        await_one();
    report_site(&sites[PARENT]);
    report_fact("children", count);
    report_fact("allocs", 3 * count + 1);
    report_fact("alloc_bytes", (3 * count + 1) * size);
    report_fact("outstanding", 2 * count + 1);
    report_fact("outstanding_bytes", (2 * count + 1) * size);
    victim_end();
    return 0;
}
