/* How a test program speaks to its test: `name address` lines on standard output, an empty line, and then it does one step
 * per line on standard input until that ends. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline void say(const char *name, const void *address) { printf("%s %lx\n", name, (unsigned long)(uintptr_t)address); }

static inline void ready(void) {
    puts("");
    fflush(stdout);
}

/* Waits for a line; 0 when there will be none. */
static inline int step(void) {
    int letter;
    while ((letter = getchar()) != EOF)
        if (letter == '\n')
            return 1;
    return 0;
}

#ifdef __cplusplus
}
#endif
