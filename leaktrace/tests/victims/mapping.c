/* Takes memory from the kernel without asking any allocator for it: MEBIBYTES by mmap. With ALLOCATIONS it asks the allocator, too,
 * so many times, and gives everything back.
 *
 *     mapping wait|run MEBIBYTES [ALLOCATIONS]
 */
#include "victim.h"

#include <sys/mman.h>

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    size_t size = (size_t)victim_number(argc, argv, 2, 1) << 20;
    char *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    victim_require(mapped != MAP_FAILED, "mmap");
    memset(mapped, 1, size);
    for (unsigned long i = victim_number(argc, argv, 3, 0); i > 0; i--) {
        void *volatile p = malloc(1000);
        free(p);
    }
    victim_end();
    return 0;
}
