/* Lives that end, each with 2^BITS stacks of its own: as many as it is told, one line of standard input after the other.
 *
 *     rounds wait|run BITS
 *
 *     l COUNT    that many lives, one after the other; answers "ok" when the last has ended
 *     r          reports what all lives together asked for
 *     q          ends
 *
 * On each path a life allocates two blocks of SIZE bytes and frees one.
 */
#include "paths.h"

#include <spawn.h>
#include <sys/wait.h>

#define SIZE 1009
static struct site all = SITE(leak_path);
extern char **environ;

SITE_FN static void leak_path(unsigned long path)
{
    (void)path;
    void *volatile kept = malloc(SIZE), *volatile freed = malloc(SIZE);
    victim_require(kept && freed, "out of memory");
    free(freed);
}

static void live_and_end(char *bits)
{
    char *arguments[] = {"rounds", "life", bits, NULL};
    pid_t pid;
    int status;
    victim_require(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, arguments, environ) == 0, "posix_spawn");
    victim_require(waitpid(pid, &status, 0) == pid && status == 0, "a life failed");
}

int main(int argc, char **argv)
{
    victim_require(argc > 2, "how many bits?");
    unsigned long bits = strtoul(argv[2], NULL, 10), lives = 0;
    if (strcmp(argv[1], "life") == 0) {
        walk_all_paths(bits);
        _exit(0);
    }
    victim_begin(argc, argv);
    static char line[64];
    for (size_t n = 0; read(0, line + n, 1) == 1;) {
        if (line[n] != '\n') {
            victim_require(++n + 1 < sizeof line, "a line is too long");
            continue;
        }
        line[n] = 0;
        n = 0;
        if (line[0] == 'q')
            return 0;
        for (unsigned long i = line[0] == 'l' ? strtoul(line + 1, NULL, 10) : 0; i > 0; i--, lives++) {
            live_and_end(argv[2]);
            for (unsigned long path = 0; path < 1ul << bits; path++) {
                book(&all, SIZE);
                book(&all, SIZE);
                unbook(&all, SIZE);
            }
        }
        if (line[0] == 'r') {
            report_site(&all);
            report_fact("lives", lives);
            report_fact("stacks", 2 * (lives << bits));
            report_fact("allocs", all.allocs);
            report_fact("alloc_bytes", all.alloc_bytes);
        }
        victim_say("ok\n");
    }
    return 0;
}
