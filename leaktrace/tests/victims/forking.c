/* Children by fork without exec: each has its own account, and may free what its parent allocated.
 *
 *     forking wait|run [CHILDREN]
 */
#include "victim.h"

#include <sys/wait.h>

#define BLOCKS 10

enum { PARENT, CHILD, SITES };
static struct site sites[SITES] = {SITE(leak_parent), SITE(leak_child)};
static void *inherited[BLOCKS];

SITE_FN static void *leak_parent(size_t size)
{
    void *p = malloc(size);
    book(&sites[PARENT], size);
    return p;
}

SITE_FN static void *leak_child(size_t size)
{
    void *p = malloc(size);
    book(&sites[CHILD], size);
    return p;
}

static void child(int number)
{
    static void *kept[BLOCKS];
    memset(sites + CHILD, 0, sizeof sites[CHILD]);
    sites[CHILD].name = "leak_child";
    /* The copies of the parent's blocks are the child's to free; their addresses come again at once. */
    for (int i = 0; i < BLOCKS; i++)
        free(inherited[i]);
    for (int i = 0; i < BLOCKS; i++)
        kept[i] = leak_child(200 + (size_t)(10 * number + i));
    free(kept[0]);
    unbook(&sites[CHILD], 200 + (size_t)(10 * number));
    report_site(&sites[CHILD]);
}

int main(int argc, char **argv)
{
    unsigned long children = victim_number(argc, argv, 2, 3);
    victim_begin(argc, argv);
    for (int i = 0; i < BLOCKS; i++)
        inherited[i] = leak_parent(200 + (size_t)i);
    for (unsigned long i = 0; i < children; i++) {
        pid_t pid = fork();
        victim_require(pid >= 0, "fork");
        if (pid == 0) {
            child((int)i);
            _exit(0);
        }
        int status;
        victim_require(waitpid(pid, &status, 0) == pid && status == 0, "a child failed");
    }
    report_site(&sites[PARENT]);
    victim_end();
    return 0;
}
