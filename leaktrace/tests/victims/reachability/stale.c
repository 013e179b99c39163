/* What is left of a pointer on the stack and in registers when a process ends, under the frames of exit() and among
 * them.
 *
 *     stale wait|run [return|exit|quick_exit|_exit]
 *
 * What main() held is lost when main() returns, and still reachable when main() or what it called ends the process.
 * What stands below the frame that ends the process is dead in either case, though exit()'s frames cover it and do not
 * overwrite all of it. These blocks come after the moment that `wait` is about, so that what is said of them holds at
 * the end in both.
 */
#include "expect.h"

#define LSAN " lsan=definitely_lost/still_reachable # it looks from within exit()"

/* Writes the pointer to all words of the stack that the functions that end the process will use. */
SITE_FN static void leave_below(uintptr_t inverted)
{
    void *volatile dead[2048];
    for (int i = 0; i < 2048; i++)
        dead[i] = (void *)~inverted;
    forget(dead[0]);
}

SITE_FN static uintptr_t new_block_left_below(void)
{
    return masked(BLOCK(1001, LOST LSAN));
}

/* Leaves no other copy of that block. */
SITE_FN static uintptr_t scrubbed(uintptr_t inverted)
{
    scrub();
    return inverted;
}

/* The functions that end the process, in a frame that has a block. */
SITE_FN static int end_by(const char *how)
{
    void *volatile local = BLOCK(1003, REACHABLE LSAN);
    leave_below(scrubbed(new_block_left_below()));
    if (strcmp(how, "exit") == 0)
        exit(0);
    else if (strcmp(how, "quick_exit") == 0)
        quick_exit(0);
    else
        _exit(0);
    return local == NULL;
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    judged();
    if (argc > 2 && strcmp(argv[2], "return") != 0)
        return end_by(argv[2]);
    /* As programs do it: the last that main() does with a block is to use it. */
    char *used = BLOCK(1011, LOST LSAN);
    char *volatile in_frame = BLOCK(1013, LOST LSAN);
    used[0] = 'x';
    victim_require(in_frame != NULL && used[0] == 'x', "a block is gone");
    leave_below(scrubbed(new_block_left_below()));
    return 0;
}
