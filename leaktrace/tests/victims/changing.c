/* Leaks, becomes somebody else without executing another program, and leaks again.
 *
 *     changing wait|run name NAME    takes another name
 *     changing wait|run user UID     takes another user's rights
 *     changing wait|run hidden -      is not to be dumped, nor looked at but by root, from before it begins
 *     changing wait|run group FILE   enters a control group: writes itself to this cgroup.procs
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/prctl.h>

enum { BEFORE, AFTER, SITES };
static struct site sites[SITES] = {SITE(leak_before), SITE(leak_after)};
static void *kept[20];

SITE_FN static void *leak_before(size_t size)
{
    void *p = malloc(size);
    book(&sites[BEFORE], size);
    return p;
}

SITE_FN static void *leak_after(size_t size)
{
    void *p = malloc(size);
    book(&sites[AFTER], size);
    return p;
}

int main(int argc, char **argv)
{
    victim_require(argc > 3, "what to become?");
    int hidden = strcmp(argv[2], "hidden") == 0;
    victim_require(!hidden || prctl(PR_SET_DUMPABLE, 0) == 0, "prctl");
    victim_begin(argc, argv);
    for (size_t i = 0; i < 10; i++)
        kept[i] = leak_before(100 + i);
    if (strcmp(argv[2], "name") == 0) {
        victim_require(prctl(PR_SET_NAME, argv[3]) == 0, "prctl");
    } else if (strcmp(argv[2], "user") == 0) {
        victim_require(setuid((uid_t)victim_number(argc, argv, 3, 0)) == 0, "setuid");
    } else if (!hidden) {
        int file = open(argv[3], O_WRONLY);
        victim_require(file >= 0 && write(file, "0", 1) == 1 && close(file) == 0, "cgroup.procs");
    }
    for (size_t i = 0; i < 10; i++)
        kept[10 + i] = leak_after(200 + i);
    report_site(&sites[BEFORE]);
    report_site(&sites[AFTER]);
    victim_end();
    return 0;
}
