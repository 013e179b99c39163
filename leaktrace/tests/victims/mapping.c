/* Takes memory from the kernel without asking any allocator for it: MEBIBYTES by mmap.
 *
 *     mapping wait|run MEBIBYTES
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
    victim_end();
    return 0;
}
