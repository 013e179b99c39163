/* Calls LeakSanitizer's functions where a trace may not see it, or where what they say must be handed on.
 *
 *     annotating wait|run
 *
 * Before "ready" it disables leaks once. After it, it allocates (`before`), enables leaks, forks with leaks disabled, and what is allocated
 * by the child (`in_child`, `in_enabled_child`) and by a program that the child executes is not the same.
 */
#include "annotations.h"
#include "victim.h"

#include <sys/wait.h>

/* A function that loses a block. */
#define LOSES(name, size)                                \
    SITE_FN static void name(void)                       \
    {                                                    \
        void *block = malloc(size);                      \
        __asm__ volatile("" : : "r"(block) : "memory");  \
    }

LOSES(before, 1001)
LOSES(after, 1003)
LOSES(in_child, 1011)
LOSES(in_enabled_child, 1013)
LOSES(in_another_program, 1021)

static int in_own_process(char **argv, const char *program)
{
    int status;
    pid_t child = fork();
    victim_require(child >= 0, "no process");
    if (child == 0) {
        if (program)
            execl("/proc/self/exe", argv[0], program, (char *)NULL);
        in_child();
        __lsan_enable();
        in_enabled_child();
        _exit(0);
    }
    victim_require(waitpid(child, &status, 0) == child && status == 0, "the child failed");
    return child;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "executed") == 0) {
        in_another_program();
        return 0;
    }
    __lsan_disable();
    victim_begin(argc, argv);
    before();
    __lsan_enable();
    after();
    __lsan_disable();
    report_fact("child", in_own_process(argv, NULL));
    report_fact("executed", in_own_process(argv, "executed"));
    __lsan_enable();
    victim_end();
    return 0;
}
