/* What a program sees of itself and its surroundings, for comparison with and without leaktrace. */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/resource.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv)
{
    char line[256], path[4096];
    struct rlimit files;
    for (int i = 0; i < argc; i++)
        printf("arg %s\n", argv[i]);
    for (char **entry = environ; *entry; entry++)
        printf("env %s\n", *entry);
    printf("ids %d %d %d %d\n", getuid(), geteuid(), getgid(), getegid());
    printf("group %d session %d\n", getpgrp(), getsid(0));
    printf("cwd %s\n", getcwd(path, sizeof path));
    getrlimit(RLIMIT_NOFILE, &files);
    printf("files %lu %lu umask %o\n", (unsigned long)files.rlim_cur, (unsigned long)files.rlim_max, umask(0));
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if ((!strncmp(line, "Sig", 3) && line[3] != 'Q') || !strncmp(line, "ShdPnd", 6) || !strncmp(line, "Cap", 3))
            fputs(line, stdout);
    if (status)
        fclose(status);
    DIR *open = opendir("/proc/self/fd");
    for (struct dirent *entry; open && (entry = readdir(open));)
        if (atoi(entry->d_name) != dirfd(open) && entry->d_name[0] != '.')
            printf("fd %s\n", entry->d_name);
    while (fgets(line, sizeof line, stdin))
        printf("stdin %s", line);
    return 0;
}
