/* Functions, inlined calls and the ends of functions, in C. */
#include "report.h"
#include <setjmp.h>
#include <string.h>

static jmp_buf back;

__attribute__((noinline, noipa)) void record(const char *name) { say(name, __builtin_return_address(0)); }

__attribute__((noinline, noipa, noreturn)) void record_and_leave(const char *name) {
    say(name, __builtin_return_address(0));
    longjmp(back, 1);
}

static inline __attribute__((always_inline)) int inlined_leaf(int x) {
    record("inlined"); /* LINE leaf */
    return x * 3;
}

static inline __attribute__((always_inline)) int inlined_middle(int x) {
    return inlined_leaf(x + 1) + 1; /* LINE middle */
}

__attribute__((noinline, noipa)) int outer(int x) {
    int y = inlined_middle(x); /* LINE outer */
    return y + x;
}

static __attribute__((noinline, noipa)) int hidden(int x) {
    record("hidden"); /* LINE hidden */
    return x + 1;
}

__attribute__((noinline, noipa)) int exported(int x) {
    record("exported"); /* LINE exported */
    return x + 2;
}

/* Its last instruction is the call, so that the return address is past its end. */
__attribute__((noinline, noipa)) void never_returns(void) {
    record_and_leave("past_end"); /* LINE never_returns */
}

/* A name without a size, as hand-written assembly has them. */
__asm__(".text\n.balign 64\n.globl sizeless\n.type sizeless, @function\nsizeless:\n.skip 64, 0x90\n");
void sizeless(void);

int main(void) {
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    int x = outer(1) + hidden(2) + exported(3);
    if (!setjmp(back))
        never_returns();
    say("outer", (void *)outer);
    say("sizeless", (void *)sizeless);
    say("malloc", (void *)malloc);
    /* Keeps a call through the procedure linkage table. */
    char *copy = strdup("x");
    free(copy);
    ready();
    while (step())
        ready();
    return x == 0;
}
