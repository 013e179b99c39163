/* Leaks under frames that are larger or smaller by how it is built (-DROOM=BYTES), at the same addresses in each build: what
 * leads through one twin's stack leads nowhere in another's.
 *
 *     twins wait|run
 */
#include "victim.h"

#ifndef ROOM
#define ROOM 4096
#endif
enum { LEAVES, SITES };
static struct site sites[SITES] = {SITE(leak_leaf)};
static void *volatile kept[64];

SITE_FN static void *leak_leaf(size_t size)
{
    void *p = malloc(size);
    book(&sites[LEAVES], size);
    return p;
}

/* Touches both ends of its frame, as large as the build says. */
SITE_FN static void *twin_inner(size_t size)
{
    volatile char room[ROOM];
    room[0] = room[ROOM - 1] = 1;
    void *p = leak_leaf(size + room[0] - room[ROOM - 1]);
    room[1] = 1;
    return p;
}

SITE_FN static void *twin_outer(size_t size)
{
    volatile char room[ROOM];
    room[0] = room[ROOM - 1] = 1;
    void *p = twin_inner(size + room[0] - room[ROOM - 1]);
    room[1] = 1;
    return p;
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    /* A life that is over at once is over before anybody has made a list of its mappings. */
    usleep(30000);
    for (size_t i = 0; i < 64; i++)
        kept[i] = twin_outer(100 + i);
    report_site(&sites[LEAVES]);
    victim_end();
    return 0;
}
