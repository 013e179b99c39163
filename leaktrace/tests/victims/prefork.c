/* A server that makes its workers before it serves, as gunicorn and nginx do: they run when a trace of the master begins. Only
 * they allocate.
 *
 *     prefork wait|run WORKERS
 */
#include "victim.h"

#include <sys/wait.h>

enum { WORK, SITES };
static struct site sites[SITES] = {SITE(leak_worker)};
static void *volatile kept[64];

SITE_FN static void *leak_worker(size_t size)
{
    void *p = malloc(size);
    book(&sites[WORK], size);
    return p;
}

/* Serves once, when the master says so, and stays until the master is gone. */
static void serve(unsigned long number, int orders, int done)
{
    char byte;
    if (read(orders, &byte, 1) != 1)
        _exit(0);
    for (size_t i = 0; i < 10 + number; i++)
        kept[i] = leak_worker(100 + i);
    report_site(&sites[WORK]);
    victim_require(write(done, "d", 1) == 1, "the master does not listen");
    _exit(read(orders, &byte, 1) == 0 ? 0 : 97);
}

int main(int argc, char **argv)
{
    unsigned long workers = victim_number(argc, argv, 2, 2);
    int orders[16][2], done[2];
    victim_require(workers <= 16 && pipe(done) == 0, "pipes");
    for (unsigned long i = 0; i < workers; i++) {
        victim_require(pipe(orders[i]) == 0, "pipes");
        pid_t pid = fork();
        victim_require(pid >= 0, "fork");
        if (pid == 0) {
            for (unsigned long other = 0; other <= i; other++)
                close(orders[other][1]);
            serve(i, orders[i][0], done[1]);
        }
    }
    victim_begin(argc, argv);
    char byte;
    for (unsigned long i = 0; i < workers; i++)
        victim_require(write(orders[i][1], "g", 1) == 1 && read(done[0], &byte, 1) == 1, "a worker is gone");
    victim_end();
    for (unsigned long i = 0; i < workers; i++)
        close(orders[i][1]);
    while (wait(NULL) > 0) {
    }
    return 0;
}
