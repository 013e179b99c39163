/* COUNT blocks of SIZE bytes: all are there at the second gate, none at the third. */
#include "gate.h"

int main(int count, char **arguments)
{
    size_t number = count > 1 ? (size_t)atol(arguments[1]) : 1000, size = count > 2 ? (size_t)atol(arguments[2]) : 16;
    void **blocks = malloc(number * sizeof *blocks);
    if (!blocks)
        return 2;
    gate();
    for (size_t i = 0; i < number; i++)
        blocks[i] = got(malloc(size));
    gate();
    for (size_t i = 0; i < number; i++, gone())
        free(blocks[i]);
    gate();
    free(blocks);
    return 0;
}
