/* Maps copies of the C library as code and shortens each file soon after, as a careless installation does, or somebody who
 * wants to end whoever reads it. Each copy is another file, so that nobody has read it before.
 *
 *     shortening wait|run DIRECTORY ROUNDS
 */
#include "victim.h"

#include <fcntl.h>
#include <sys/mman.h>

enum { KEPT, SITES };
static struct site sites[SITES] = {SITE(leak_between)};
static void *kept[1000];
static char library[4 << 20];

SITE_FN static void *leak_between(size_t size)
{
    void *p = malloc(size);
    book(&sites[KEPT], size);
    return p;
}

int main(int argc, char **argv)
{
    victim_require(argc > 3, "where, and how often?");
    unsigned long rounds = victim_number(argc, argv, 3, 0);
    int source = open("/lib/x86_64-linux-gnu/libc.so.6", O_RDONLY);
    ssize_t size = read(source, library, sizeof library);
    victim_require(size > 1 << 20 && size < (ssize_t)sizeof library && close(source) == 0, "the C library");
    victim_begin(argc, argv);
    for (unsigned long i = 0; i < rounds; i++) {
        char name[256];
        snprintf(name, sizeof name, "%s/lib%lu.so", argv[2], i);
        int file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0755);
        victim_require(file >= 0 && write(file, library, (size_t)size) == size, "cannot write a copy");
        void *code = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0x28000);
        victim_require(code != MAP_FAILED, "mmap");
        /* From at once to after six milliseconds: some time while it is being read. */
        usleep((useconds_t)(200 + i % 40 * 150));
        victim_require(ftruncate(file, 4096) == 0, "ftruncate");
        usleep(3000);
        victim_require(munmap(code, 4096) == 0 && close(file) == 0 && unlink(name) == 0, "cannot clean up");
        if (i % 10 == 0)
            kept[i / 10] = leak_between(100 + i);
    }
    report_site(&sites[KEPT]);
    victim_end();
    return 0;
}
