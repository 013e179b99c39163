/* Sixteen lines of threads: each thread creates the next one of its line and ends. Prints "ready" after the first thousand. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static atomic_long born;
static pthread_attr_t attributes;

static void *breed(void *nothing)
{
    pthread_t next;
    atomic_fetch_add(&born, 1);
    while (pthread_create(&next, &attributes, breed, NULL) != 0)
        ;
    return nothing;
}

int main(void)
{
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 64 * 1024);
    for (int i = 0; i < 16; i++)
        breed(NULL);
    while (atomic_load(&born) < 1000)
        usleep(1000);
    printf("ready\n");
    fflush(stdout);
    for (;;)
        pause();
}
