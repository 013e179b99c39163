/* The first thread ends while another goes on: the process lives, and so does its account. */
#include "victim.h"

#include <pthread.h>

#define BLOCKS 30

enum { LEADER, FOLLOWER, SITES };
static struct site sites[SITES] = {SITE(leak_leader), SITE(leak_follower)};
static pthread_t leader;

SITE_FN static void *leak_leader(size_t size)
{
    void *p = malloc(size);
    book(&sites[LEADER], size);
    return p;
}

SITE_FN static void *leak_follower(size_t size)
{
    void *p = malloc(size);
    book(&sites[FOLLOWER], size);
    return p;
}

static void *follow(void *nothing)
{
    (void)nothing;
    pthread_join(leader, NULL);
    static void *kept[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++)
        kept[i] = leak_follower(10 + i);
    for (size_t i = 0; i < BLOCKS; i += 2) {
        free(kept[i]);
        unbook(&sites[FOLLOWER], 10 + i);
    }
    report_site(&sites[LEADER]);
    report_site(&sites[FOLLOWER]);
    victim_end();
    exit(0);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    leader = pthread_self();
    victim_begin(argc, argv);
    for (size_t i = 0; i < BLOCKS; i++)
        (void)leak_leader(50 + i);
    victim_require(pthread_create(&thread, NULL, follow, NULL) == 0, "pthread_create");
    pthread_exit(NULL);
}
