/* Leaks, and then ends by itself in one of the ways there are.
 *
 *     ending wait|run return|exit|_exit|abort|kill|segv|term [STATUS]
 *
 * It does not wait at the end: a trace of it ends because it does.
 */
#include "victim.h"

#include <signal.h>

#define BLOCKS 20

enum { ENDING, SITES };
static struct site sites[SITES] = {SITE(leak_ending)};
static void *kept[BLOCKS];

SITE_FN static void *leak_ending(size_t size)
{
    void *p = malloc(size);
    book(&sites[ENDING], size);
    return p;
}

int main(int argc, char **argv)
{
    int status = (int)victim_number(argc, argv, 3, 0);
    victim_require(argc > 2, "how to end?");
    const char *how = argv[2];
    victim_begin(argc, argv);
    for (size_t i = 0; i < BLOCKS; i++)
        kept[i] = leak_ending(64 * (i + 1));
    for (size_t i = 0; i < BLOCKS; i += 4) {
        free(kept[i]);
        unbook(&sites[ENDING], 64 * (i + 1));
    }
    report_all(sites, SITES);
    if (strcmp(how, "return") == 0)
        return status;
    if (strcmp(how, "exit") == 0)
        exit(status);
    if (strcmp(how, "_exit") == 0)
        _exit(status);
    if (strcmp(how, "abort") == 0)
        abort();
    if (strcmp(how, "kill") == 0)
        kill(getpid(), SIGKILL);
    if (strcmp(how, "term") == 0)
        kill(getpid(), SIGTERM);
    if (strcmp(how, "segv") == 0)
        *(volatile int *)8 = 1;
    victim_fail("no such end");
}
