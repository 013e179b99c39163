/* Maps every file named on standard input, up to an empty line, as code, and says where. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "report.h"

int main(void) {
    char path[4096];
    while (fgets(path, sizeof path, stdin) && path[0] != '\n') {
        path[strcspn(path, "\n")] = 0;
        struct stat status;
        int file = open(path, O_RDONLY);
        if (file < 0 || fstat(file, &status))
            return 1;
        void *start = mmap(NULL, status.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0);
        if (start == MAP_FAILED)
            return 1;
        say(path, start);
    }
    ready();
    while (step())
        ready();
    return 0;
}
