/* Its first thread ends, the second one goes on. */
#include "report.h"
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_t leader;

__attribute__((noinline, noipa)) void record(const char *name) { say(name, __builtin_return_address(0)); }

static void *second(void *unused) {
    (void)unused;
    pthread_join(leader, NULL);
    /* Joined when the thread has left its stack; it is a zombie a moment later. */
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)getpid());
    while (state != 'Z') {
        FILE *stat = fopen(path, "r");
        if (!stat || fscanf(stat, "%*d %*s %c", &state) != 1)
            exit(1);
        fclose(stat);
    }
    record("second"); /* LINE second */
    ready();
    while (step())
        ready();
    exit(0);
}

int main(void) {
    pthread_t thread;
    leader = pthread_self();
    if (pthread_create(&thread, NULL, second, NULL))
        return 1;
    pthread_exit(NULL);
}
