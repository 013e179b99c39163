/* Gives pointers to the kernel: to two epoll instances and three timers. Prints each as `epoll HEX` or `timer HEX`, then
 * "ready". That of SIGEV_THREAD is the C library's own, and is printed as "timer". */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

static void watch(int instance, int descriptor)
{
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = malloc(100) };
    epoll_ctl(instance, EPOLL_CTL_ADD, descriptor, &event);
    printf("epoll %lx\n", (unsigned long)event.data.ptr);
}

static void expire(union sigval nothing)
{
}

int main(void)
{
    int ends[2], first = epoll_create1(0), second = epoll_create1(EPOLL_CLOEXEC);
    timer_t timer;
    if (pipe(ends) != 0)
        return 1;
    watch(first, ends[0]);
    watch(first, ends[1]);
    watch(second, ends[0]);
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_ptr = malloc(100) };
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    printf("timer %lx\n", (unsigned long)event.sigev_value.sival_ptr);
    event.sigev_notify = SIGEV_NONE;
    timer_create(CLOCK_REALTIME, &event, &timer);
    printf("timer %lx\n", (unsigned long)event.sigev_value.sival_ptr);
    event.sigev_notify = SIGEV_THREAD, event.sigev_notify_function = expire;
    timer_create(CLOCK_MONOTONIC, &event, &timer);
    printf("timer\n");
    printf("ready\n");
    fflush(stdout);
    getchar();
    return 0;
}
