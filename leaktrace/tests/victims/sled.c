/* A program of other content for the file of another one: it runs through all of the file where that had code, byte by
   byte. A breakpoint of the other program's, with the kernel acting out the instruction that stood there, leaves the stack
   as it must not be. */
#include <stdio.h>
#include <stdlib.h>

/* nop; the other program is smaller. */
__asm__(".text\n"
        "sled: .fill 4194304, 1, 0x90\n"
        "ret\n");
void sled(void);

int main(void)
{
    sled();
    free(malloc(77));
    puts("through");
    return 0;
}
