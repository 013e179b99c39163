/* Places "functions" as a just-in-time compiler does, and tells of them in /tmp/perf-PID.map. */
#include "report.h"
#include <sys/mman.h>
#include <unistd.h>

int main(void) {
    char *code = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED)
        return 1;
    char path[64];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
    FILE *map = fopen(path, "w");
    if (!map)
        return 1;
    fprintf(map, "%lx 40 LazyCompile:*first /srv/app.js:10:5\n", (unsigned long)code);
    fflush(map);
    say("first", code + 0x20);
    say("gap", code + 0x48);
    say("second", code + 0x108);
    ready();
    if (step()) {
        fprintf(map, "%lx 10 second\n", (unsigned long)code + 0x100);
        fflush(map);
        ready();
    }
    while (step())
        ready();
    return 0;
}
