/* Blocks that can all be reached: a global variable has a structure, which has a list; a thread has blocks on its stack and in
 * its own variables; the kernel has one for a descriptor; a large table has many. */
#include "victim.h"

#include <pthread.h>
#include <sys/epoll.h>

#define NODES 1000
#define ENTRIES 200

struct node {
    struct node *next;
    char bytes[40];
};

struct session {
    long id;
    struct node *list;
};

struct cache {
    long filler[2];
    struct session *session;
};

/* The session stands 0x10 bytes behind the start. */
struct cache cache;
char *table[ENTRIES];
__thread char *own;
static volatile int there;

SITE_FN static struct session *session_new(void)
{
    struct session *session = malloc(sizeof *session);
    KEEP_FRAME();
    return session;
}

SITE_FN static void list_push(struct session *session)
{
    struct node *node = calloc(1, sizeof *node);
    KEEP_FRAME();
    node->next = session->list;
    session->list = node;
}

SITE_FN static char *entry_new(void)
{
    char *entry = calloc(1, 24);
    KEEP_FRAME();
    return entry;
}

SITE_FN static char *local_new(void)
{
    char *local = calloc(1, 333);
    KEEP_FRAME();
    return local;
}

SITE_FN static char *own_new(void)
{
    char *block = calloc(1, 444);
    KEEP_FRAME();
    return block;
}

SITE_FN static void *watched_new(void)
{
    void *watched = calloc(1, 555);
    KEEP_FRAME();
    return watched;
}

/* Writes over what calls have left on the stack and in registers. */
SITE_FN static void scrub(void)
{
    volatile char bytes[4096];
    memset((void *)bytes, 0, sizeof bytes);
    KEEP_FRAME();
}

SITE_FN static void wait_for_ever(void)
{
    scrub();
    there = 1;
    for (;;)
        pause();
}

SITE_FN static void keep_local(void)
{
    char *volatile local = local_new();
    wait_for_ever();
    victim_require(local != NULL, "never reached");
}

static void *work(void *nothing)
{
    own = own_new();
    keep_local();
    return nothing;
}

SITE_FN static void build(void)
{
    cache.session = session_new();
    cache.session->list = NULL;
    for (int node = 0; node < NODES; node++)
        list_push(cache.session);
    for (int entry = 0; entry < ENTRIES; entry++)
        table[entry] = entry_new();
    int pipe_ends[2], epoll = epoll_create1(0);
    victim_require(epoll >= 0 && pipe(pipe_ends) == 0, "epoll_create1");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = watched_new()};
    victim_require(epoll_ctl(epoll, EPOLL_CTL_ADD, pipe_ends[0], &event) == 0, "epoll_ctl");
    memset(&event, 0, sizeof event);
    KEEP_FRAME();
    pthread_t thread;
    victim_require(pthread_create(&thread, NULL, work, NULL) == 0, "a thread could not be started");
    while (!there)
        usleep(1000);
    pthread_setname_np(thread, "keeper");
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    build();
    scrub();
    victim_say("done\n");
    victim_await();
    return 0;
}
