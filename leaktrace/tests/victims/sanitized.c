/* Built with AddressSanitizer: loses one block, which its LeakSanitizer finds at the end. */
#include <stdlib.h>
#include <string.h>

static void lose(void)
{
    char *volatile block = malloc(123);
    memset(block, 1, 123);
    block = NULL;
}

int main(void)
{
    lose();
    /* Nothing that was left in registers and on the stack still points at it. */
    char *volatile other = malloc(45);
    memset(other, 2, 45);
    free(other);
    return 0;
}
