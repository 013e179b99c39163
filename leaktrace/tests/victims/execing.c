/* Leaks, replaces itself by exec, and leaks again: two lives of one pid.
 *
 *     execing wait|run main|thread
 *     execing wait|run into PROGRAM ARGUMENTS...
 *
 * `thread` calls exec from a thread that is not the first one: it takes over the pid, and its own id is gone. `into` does
 * so too, and becomes another program.
 */
#include "victim.h"

#include <pthread.h>

#define BLOCKS 12

enum { FIRST, SECOND, SITES };
static struct site sites[SITES] = {SITE(leak_before_exec), SITE(leak_after_exec)};
static char *own_arguments[4];
static const char *program = "/proc/self/exe";
static char **arguments = own_arguments;

SITE_FN static void *leak_before_exec(size_t size)
{
    void *p = malloc(size);
    book(&sites[FIRST], size);
    return p;
}

SITE_FN static void *leak_after_exec(size_t size)
{
    void *p = malloc(size);
    book(&sites[SECOND], size);
    return p;
}

static void *replace(void *nothing)
{
    (void)nothing;
    for (size_t i = 0; i < BLOCKS; i++)
        (void)leak_before_exec(100 + i);
    report_site(&sites[FIRST]);
    execv(program, arguments);
    victim_fail("exec");
}

int main(int argc, char **argv)
{
    victim_require(argc > 2, "main or thread?");
    if (strcmp(argv[2], "second") == 0) {
        static void *kept[BLOCKS];
        victim_waits = strcmp(argv[1], "wait") == 0;
        for (size_t i = 0; i < BLOCKS; i++)
            kept[i] = leak_after_exec(1000 + i);
        free(kept[3]);
        unbook(&sites[SECOND], 1003);
        report_site(&sites[SECOND]);
        victim_end();
        return 0;
    }
    arguments[0] = argv[0];
    arguments[1] = argv[1];
    arguments[2] = "second";
    victim_begin(argc, argv);
    if (strcmp(argv[2], "into") == 0) {
        program = argv[3];
        arguments = argv + 3;
    }
    if (strcmp(argv[2], "main") != 0) {
        pthread_t thread;
        victim_require(pthread_create(&thread, NULL, replace, NULL) == 0, "pthread_create");
        pthread_join(thread, NULL);
    }
    replace(NULL);
    return 0;
}
