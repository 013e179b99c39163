/* Pointers that only the kernel has. From outside one sees what it tells in /proc: epoll's data and timers' values. */
#include "expect.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>

#define NOT_SEEN " valgrind=definitely_lost lsan=definitely_lost # the kernel is nothing to it"

static int poller, ready_never[2];

/* What epoll_wait() will give back. nginx keeps a bit of its own in the pointer. */
SITE_FN static void watch(int file, void *block, uintptr_t bits)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uintptr_t)block | bits};
    victim_require(epoll_ctl(poller, EPOLL_CTL_ADD, file, &event) == 0, "epoll_ctl");
    event.data.ptr = NULL;
    forget(&event);
}

SITE_FN static void hold_in_epoll(void)
{
    void **block = BLOCK(1001, REACHABLE NOT_SEEN);
    *block = BLOCK(1003, REACHABLE " valgrind=indirectly_lost lsan=indirectly_lost # as the block that holds it");
    watch(ready_never[0], block, 0);
}

SITE_FN static void hold_in_epoll_with_a_bit(void)
{
    watch(timerfd_create(CLOCK_MONOTONIC, 0), BLOCK(1005, POSSIBLE NOT_SEEN), 1);
}

/* Deleted and overwritten again. */
SITE_FN static void lose_in_epoll(void)
{
    int file = eventfd(0, 0);
    watch(file, BLOCK(1007, LOST), 0);
    victim_require(epoll_ctl(poller, EPOLL_CTL_DEL, file, NULL) == 0, "epoll_ctl");
    file = eventfd(0, 0);
    watch(file, BLOCK(1009, LOST), 0);
    close(file);
}

/* The value that comes with a timer's signal. */
SITE_FN static void hold_in_a_timer(void)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    event.sigev_value.sival_ptr = BLOCK(1011, REACHABLE NOT_SEEN);
    victim_require(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0, "timer_create");
    event.sigev_value.sival_ptr = NULL;
    forget(&event);
}

SITE_FN static void lose_in_a_timer(void)
{
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_NONE, .sigev_value.sival_ptr = BLOCK(1013, LOST)};
    victim_require(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_delete(timer) == 0, "timer_create");
}

/* What cannot be seen: the value of a signal that is blocked and pending, and bytes in a pipe, a socket, and a file. */
SITE_FN static void lose_in_a_pending_signal(void)
{
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    union sigval value = {.sival_ptr = BLOCK(1021, LOST)};
    victim_require(sigqueue(getpid(), SIGRTMIN + 1, value) == 0, "sigqueue");
}

SITE_FN static void write_to(int file, void *block)
{
    victim_require(file >= 0 && write(file, &block, sizeof block) == sizeof block, "write");
    block = NULL;
    forget(&block);
}

SITE_FN static void lose_in_a_pipe(void)
{
    int ends[2];
    victim_require(pipe(ends) == 0, "pipe");
    write_to(ends[1], BLOCK(1023, LOST));
}

SITE_FN static void lose_in_a_socket(void)
{
    int ends[2];
    victim_require(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    write_to(ends[1], BLOCK(1025, LOST));
}

SITE_FN static void lose_in_a_file(void)
{
    char name[] = "/tmp/leaktrace-victim-XXXXXX";
    int file = mkstemp(name);
    unlink(name);
    write_to(file, BLOCK(1027, LOST));
}

/* Where only the kernel knows that the block is a signal stack. Undecided: it is in use as soon as a signal comes, but
 * that is not told in /proc. */
SITE_FN static void lose_a_signal_stack(void)
{
    stack_t stack = {.ss_sp = BLOCK(65537, LOST), .ss_size = 65536};
    victim_require(sigaltstack(&stack, NULL) == 0, "sigaltstack");
    stack.ss_sp = NULL;
    forget(&stack);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    poller = epoll_create1(0);
    victim_require(poller >= 0 && pipe(ready_never) == 0, "epoll_create1");
    CASE(hold_in_epoll);
    CASE(hold_in_epoll_with_a_bit);
    CASE(lose_in_epoll);
    CASE(hold_in_a_timer);
    CASE(lose_in_a_timer);
    CASE(lose_in_a_pending_signal);
    CASE(lose_in_a_pipe);
    CASE(lose_in_a_socket);
    CASE(lose_in_a_file);
    CASE(lose_a_signal_stack);
    judged();
    return 0;
}
