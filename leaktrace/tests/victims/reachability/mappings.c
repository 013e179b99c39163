/* Memory that the program mapped itself: of every kind a root, as long as it can be read. */
#include "expect.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define PAGE 4096
#define LSAN " lsan=definitely_lost # it looks into no mappings of the program's own"

static void *map(size_t size, int flags, int file)
{
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, file, 0);
    victim_require(mapped != MAP_FAILED, "mmap");
    return mapped;
}

static void hold_in(void *memory, void *block)
{
    ((void *volatile *)memory)[20] = block;
}

SITE_FN static void hold_in_private(void)
{
    hold_in(map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1), BLOCK(1001, REACHABLE LSAN));
}

SITE_FN static void hold_in_shared(void)
{
    hold_in(map(PAGE, MAP_SHARED | MAP_ANONYMOUS, -1), BLOCK(1003, REACHABLE LSAN));
}

/* Maps a file of this descriptor, which it then closes. */
static void *map_file(int file, int flags)
{
    victim_require(file >= 0 && ftruncate(file, PAGE) == 0, "no file to map");
    void *mapped = map(PAGE, flags, file);
    close(file);
    return mapped;
}

SITE_FN static void hold_in_shared_memory(void)
{
    int file = shm_open("/leaktrace-victim", O_RDWR | O_CREAT | O_EXCL, 0600);
    shm_unlink("/leaktrace-victim");
    hold_in(map_file(file, MAP_SHARED), BLOCK(1005, REACHABLE LSAN));
}

SITE_FN static void hold_in_memfd(void)
{
    int file = (int)syscall(SYS_memfd_create, "leaktrace-victim", 0);
    hold_in(map_file(file, MAP_SHARED), BLOCK(1007, REACHABLE LSAN));
}

/* A temporary file of a disk's file system, or of what is mounted there. */
static int temporary_file(void)
{
    char name[] = "/var/tmp/leaktrace-victim-XXXXXX";
    int file = mkstemp(name);
    unlink(name);
    return file;
}

/* The page is the process' own copy. */
SITE_FN static void hold_in_a_private_copy_of_a_file(void)
{
    hold_in(map_file(temporary_file(), MAP_PRIVATE), BLOCK(1009, REACHABLE LSAN));
}

/* Undecided: files are named as a limit, but this one is mapped and can be written. */
SITE_FN static void hold_in_a_shared_file(void)
{
    hold_in(map_file(temporary_file(), MAP_SHARED), BLOCK(1011, REACHABLE "/" LOST LSAN));
}

/* Written, and then made read-only. */
SITE_FN static void hold_in_a_read_only_page(void)
{
    void *page = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    hold_in(page, BLOCK(1021, REACHABLE " valgrind=definitely_lost" LSAN));
    victim_require(mprotect(page, PAGE, PROT_READ) == 0, "mprotect");
}

/* Written, and then sealed altogether, as guarded keys and lazily used arenas are. */
SITE_FN static void hold_in_a_page_without_access(void)
{
    void *page = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    hold_in(page, BLOCK(1023, POSSIBLE " valgrind=definitely_lost" LSAN));
    victim_require(mprotect(page, PAGE, PROT_NONE) == 0, "mprotect");
}

/* Given back: the kernel has no such page any more. */
SITE_FN static void hold_in_a_page_that_was_given_back(void)
{
    void *page = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    hold_in(page, BLOCK(1025, LOST));
    victim_require(madvise(page, PAGE, MADV_DONTNEED) == 0, "madvise");
    page = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    hold_in(page, BLOCK(1027, LOST));
    victim_require(munmap(page, PAGE) == 0, "munmap");
}

/* Not for children, and not for core files: roots nevertheless. */
SITE_FN static void hold_in_a_page_not_for_copies(void)
{
    void *page = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    victim_require(madvise(page, PAGE, MADV_DONTFORK) == 0 && madvise(page, PAGE, MADV_DONTDUMP) == 0, "madvise");
    hold_in(page, BLOCK(1029, REACHABLE LSAN));
}

/* Beside a block so big that the allocator maps it: the kernel makes one mapping of both. The program's
 * own part holds, and the block's part does not: nobody has a pointer to it. */
#define BIG ((size_t)1 << 20)

SITE_FN static void hold_beside_a_big_block(void)
{
    void **big = BLOCK(BIG + 1, LOST);
    void *before = (char *)((uintptr_t)big & ~(uintptr_t)(PAGE - 1)) - PAGE;
    void *beside = mmap(before, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    /* Other allocators have something of theirs there. */
    if (beside != before)
        beside = map(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    big[1000] = BLOCK(1031, INDIRECT);
    hold_in(beside, BLOCK(1033, REACHABLE LSAN));
    forget(big);
}

/* Between parts of the allocator's heap, which the program extended itself; musl lets nobody do that. */
#ifdef __GLIBC__
static void *volatile behind[40];

SITE_FN static void hold_in_the_programs_own_part_of_the_heap(void)
{
    forget(BLOCK(1041, LOST));
    void *own = sbrk(2 * PAGE);
    victim_require(own != (void *)-1, "sbrk");
    /* So much that the heap grows behind that. */
    for (int i = 0; i < 40; i++)
        behind[i] = filled(malloc(50000), 50000);
    hold_in(own, BLOCK(1043, REACHABLE LSAN));
    forget(BLOCK(1045, LOST));
}
#endif

/* A page of a memory file that was mapped twice, and now is mapped only where it can only be read and was never used. */
SITE_FN static void hold_in_a_page_that_is_mapped_twice(void)
{
    int file = (int)syscall(SYS_memfd_create, "leaktrace-victim", 0);
    victim_require(file >= 0 && ftruncate(file, PAGE) == 0, "memfd_create");
    void *writable = map(PAGE, MAP_SHARED, file);
    victim_require(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, file, 0) != MAP_FAILED, "mmap");
    close(file);
    hold_in(writable, BLOCK(1051, REACHABLE " valgrind=definitely_lost" LSAN));
    victim_require(munmap(writable, PAGE) == 0, "munmap");
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(hold_in_private);
    CASE(hold_in_shared);
    CASE(hold_in_shared_memory);
    CASE(hold_in_memfd);
    CASE(hold_in_a_private_copy_of_a_file);
    CASE(hold_in_a_shared_file);
    CASE(hold_in_a_read_only_page);
    CASE(hold_in_a_page_without_access);
    CASE(hold_in_a_page_that_was_given_back);
    CASE(hold_in_a_page_not_for_copies);
    CASE(hold_in_a_page_that_is_mapped_twice);
    CASE(hold_beside_a_big_block);
#ifdef __GLIBC__
    CASE(hold_in_the_programs_own_part_of_the_heap);
#endif
    judged();
    return 0;
}
