/* Says which signals reach it, with the values sent along, and ends at SIGTERM. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void reached(int signal, siginfo_t *info, void *context)
{
    char line[64];
    (void)context;
    int length = snprintf(line, sizeof line, "%d %d %d\n", signal, info->si_code == SI_QUEUE, info->si_value.sival_int);
    if (write(1, line, length) != length)
        _exit(1);
    if (signal == SIGTERM)
        _exit(0);
}

int main(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = reached;
    action.sa_flags = SA_SIGINFO;
    /* One at a time: a line is one signal. */
    sigfillset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGCONT, &action, NULL);
    sigaction(SIGRTMIN + 3, &action, NULL);
    if (write(1, "ready\n", 6) != 6)
        return 1;
    for (;;)
        pause();
}
