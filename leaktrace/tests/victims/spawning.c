/* Makes descendants in every way there is; each gives its own account.
 *
 *     spawning wait|run fork|grandchild|thread|vfork|posix_spawn|clone|fexecve [COUNT]
 *     spawning run leaf SIZE
 *
 * A leaf leaks two blocks of SIZE and SIZE + 1 bytes, and frees one of 7.
 */
#include "victim.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

enum { LEAF, PARENT, SITES };
static struct site sites[SITES] = {SITE(leak_leaf), SITE(leak_parent)};
extern char **environ;

SITE_FN static void *leak_leaf(size_t size)
{
    void *p = malloc(size);
    book(&sites[LEAF], size);
    return p;
}

SITE_FN static void *leak_parent(size_t size)
{
    void *p = malloc(size);
    book(&sites[PARENT], size);
    return p;
}

static void leaf(size_t size)
{
    static void *kept[2];
    sites[LEAF] = (struct site)SITE(leak_leaf);
    kept[0] = leak_leaf(size);
    kept[1] = leak_leaf(size + 1);
    free(leak_leaf(7));
    unbook(&sites[LEAF], 7);
    report_site(&sites[LEAF]);
}

static char size_text[32];
static char *leaf_arguments[] = {"spawning", "run", "leaf", size_text, NULL};

static void await_child(pid_t pid)
{
    int status;
    victim_require(pid > 0, "no child");
    victim_require(waitpid(pid, &status, 0) == pid && status == 0, "a child failed");
}

static int leaf_by_clone(void *size)
{
    leaf((size_t)size);
    _exit(0);
}

static void *fork_and_wait(void *size)
{
    pid_t pid = fork();
    if (pid == 0) {
        leaf((size_t)size);
        _exit(0);
    }
    await_child(pid);
    return NULL;
}

static void child(const char *how, size_t size)
{
    pid_t pid;
    snprintf(size_text, sizeof size_text, "%zu", size);
    if (strcmp(how, "fork") == 0) {
        fork_and_wait((void *)size);
    } else if (strcmp(how, "grandchild") == 0) {
        pid = fork();
        if (pid == 0) {
            fork_and_wait((void *)size);
            _exit(0);
        }
        await_child(pid);
    } else if (strcmp(how, "thread") == 0) {
        pthread_t thread;
        victim_require(pthread_create(&thread, NULL, fork_and_wait, (void *)size) == 0, "pthread_create");
        pthread_join(thread, NULL);
    } else if (strcmp(how, "vfork") == 0) {
        pid = vfork();
        if (pid == 0) {
            execve("/proc/self/exe", leaf_arguments, environ);
            _exit(97);
        }
        await_child(pid);
    } else if (strcmp(how, "posix_spawn") == 0) {
        victim_require(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, leaf_arguments, environ) == 0, "posix_spawn");
        await_child(pid);
    } else if (strcmp(how, "clone") == 0) {
        static char stack[64 << 10] __attribute__((aligned(16)));
        await_child(clone(leaf_by_clone, stack + sizeof stack, SIGCHLD, (void *)size));
    } else if (strcmp(how, "fexecve") == 0) {
        pid = fork();
        if (pid == 0) {
            fexecve(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), leaf_arguments, environ);
            _exit(97);
        }
        await_child(pid);
    } else {
        victim_fail("how?");
    }
}

int main(int argc, char **argv)
{
    victim_require(argc > 2, "what to make?");
    if (strcmp(argv[2], "leaf") == 0) {
        leaf(victim_number(argc, argv, 3, 100));
        return 0;
    }
    unsigned long count = victim_number(argc, argv, 3, 3);
    victim_begin(argc, argv);
    static void *kept[2];
    kept[0] = leak_parent(50);
    for (unsigned long i = 0; i < count; i++)
        child(argv[2], 1000 + 10 * i);
    kept[1] = leak_parent(60);
    report_site(&sites[PARENT]);
    victim_end();
    return 0;
}
