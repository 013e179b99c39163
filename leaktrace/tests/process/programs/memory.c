/* Memory of every kind with known contents. Prints a line `KIND START BYTES SUM` for each piece, numbers in hexadecimal, SUM
 * being that of all its words, then "ready". Its first argument is a file to map. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static size_t page;
static unsigned long initialized[512] = { 0x1234567812345678, 42, 7 };
static unsigned long uninitialized[4096];

/* Fills a page with numbers and returns their sum. */
static unsigned long fill(void *at, size_t bytes)
{
    static unsigned long number = 88172645463325252;
    unsigned long sum = 0, *words = at;
    for (size_t i = 0; i < bytes / sizeof *words; i++) {
        number ^= number << 13, number ^= number >> 7, number ^= number << 17;
        sum += words[i] = number;
    }
    return sum;
}

static void say(const char *kind, const void *start, size_t bytes, unsigned long sum)
{
    printf("%s %lx %zx %lx\n", kind, (unsigned long)start, bytes, sum);
}

static char *map(size_t pages, int flags, int file)
{
    char *at = mmap(NULL, pages * page, PROT_READ | PROT_WRITE, flags, file, 0);
    if (at == MAP_FAILED)
        perror("mmap"), exit(1);
    madvise(at, pages * page, MADV_NOHUGEPAGE);
    /* A page without rights behind it keeps the kernel from joining it with others. */
    mmap(NULL, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at;
}

int main(int argc, char **argv)
{
    page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned long sum = 0, local[64];
    char *at = map(64, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    for (int i = 0; i < 64; i += 2)
        sum += fill(at + i * page, page);
    say("Anonymous", at, 64 * page, sum);

    at = map(4, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    sum = fill(at + page, 2 * page);
    mprotect(at, 4 * page, PROT_NONE);
    say("Inaccessible", at, 4 * page, sum);

    at = map(4, MAP_SHARED | MAP_ANONYMOUS, -1);
    sum = fill(at, page) + fill(at + 2 * page, page);
    say("Shared", at, 4 * page, sum);

    int memory = memfd_create("words", MFD_CLOEXEC);
    ftruncate(memory, 2 * page);
    at = map(2, MAP_SHARED, memory);
    say("Shared", at, 2 * page, fill(at, page));

    int file = open(argv[1], O_RDWR | O_CREAT, 0600);
    ftruncate(file, 4 * page);
    at = map(4, MAP_PRIVATE, file);
    say("Data", at, 4 * page, fill(at + page, page));
    at = map(4, MAP_PRIVATE, file);
    sum = fill(at, page) + fill(at + 3 * page, page);
    mprotect(at, 4 * page, PROT_READ);
    say("ReadOnly", at, 4 * page, sum);
    at = map(4, MAP_SHARED, file);
    fill(at, page);
    say("File", at, 4 * page, 0);

    at = map(8, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    for (int i = 0; i < 8; i++)
        sum += ((volatile char *)at)[i * page];
    say("Zeroes", at, 8 * page, 0);

    at = map(8, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    sum = fill(at + 3 * page, page);
    int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register range = { .range = { (unsigned long)at, 8 * page }, .mode = UFFDIO_REGISTER_MODE_MISSING };
    if (faults < 0 || ioctl(faults, UFFDIO_API, &api) != 0 || ioctl(faults, UFFDIO_REGISTER, &range) != 0)
        perror("userfaultfd"), exit(1);
    say("Anonymous", at, 8 * page, sum);

    say("Block", initialized, sizeof initialized, 0x1234567812345678 + 42 + 7);
    say("Block", uninitialized, sizeof uninitialized, fill(uninitialized, sizeof uninitialized));
    at = malloc(1000);
    say("Block", at, 1000, fill(at, 1000));
    say("Block", local, sizeof local, fill(local, sizeof local));
    printf("ready\n");
    fflush(stdout);
    getchar();
    return local[3] == 0;
}
