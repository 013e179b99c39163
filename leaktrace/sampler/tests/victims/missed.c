/* Blocks of malloc's that are freed by a function of jemalloc's own, which nobody stands before. */
#include "gate.h"
#include <jemalloc/jemalloc.h>

int main(void)
{
    gate();
    for (int i = 0; i < 1000; i++) {
        void *block = got(malloc(100));
        sdallocx(block, 100, 0);
        gone();
    }
    gate();
    return 0;
}
