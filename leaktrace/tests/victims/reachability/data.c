/* Variables that live as long as the program: each is a root. */
#include "expect.h"

#include <sys/mman.h>

static int something = 1;
/* Not zero, so that it is in .data. */
static void *volatile in_data = &something;
static void *volatile in_bss;
void *volatile exported;
static struct {
    char name[24];
    void *volatile pointer;
} in_a_struct[3];

SITE_FN static void hold_in_data(void)
{
    in_data = BLOCK(1001, REACHABLE);
}

SITE_FN static void hold_in_bss(void)
{
    in_bss = BLOCK(1003, REACHABLE);
}

SITE_FN static void hold_in_an_exported_variable(void)
{
    exported = BLOCK(1005, REACHABLE);
}

SITE_FN static void hold_in_a_local_static(void)
{
    static void *volatile local;
    local = BLOCK(1007, REACHABLE);
    (void)local;
}

SITE_FN static void hold_in_a_struct(void)
{
    in_a_struct[2].pointer = BLOCK(1009, REACHABLE);
}

/* The page is written once and then made read-only, as ld.so does with .data.rel.ro and as programs do with their tables. */
static struct {
    char before[4096];
    void *volatile pointer;
    char behind[4088];
} sealed __attribute__((aligned(4096)));

SITE_FN static void hold_in_a_sealed_page(void)
{
    sealed.pointer =
        BLOCK(1011, REACHABLE " valgrind=definitely_lost # it looks at memory only that can be read and written");
    victim_require(mprotect((void *)&sealed.pointer, 4096, PROT_READ) == 0, "mprotect");
}

/* In a variable that was overwritten since. */
static void *volatile overwritten;

SITE_FN static void overwrite(void)
{
    overwritten = BLOCK(1021, LOST);
    overwritten = BLOCK(1023, REACHABLE);
}

/* Among the arguments, which the kernel puts above the stack: in the second one, if that has room. */
SITE_FN static void hold_in_an_argument(char *argument)
{
    void **word = (void **)(((uintptr_t)argument + 7) & ~(uintptr_t)7);
    if (strlen(argument) >= 15)
        *word = BLOCK(1031, REACHABLE);
}

/* A string of the environment, at whose start the array points, and that array, which the C library allocates. */
#define FREED_BY_MEMCHECK " valgrind=definitely_lost # at the end it has libc free what it holds itself, this array too"

SITE_FN static void hold_in_the_environment(void)
{
    char *string = BLOCK(1041, EITHER(REACHABLE, REACHABLE FREED_BY_MEMCHECK));
    memcpy(string, "LEAKTRACE_VICTIM=", 17);
    string[1040] = '\0';
    victim_require(putenv(string) == 0, "putenv");
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(hold_in_data);
    CASE(hold_in_bss);
    CASE(hold_in_an_exported_variable);
    CASE(hold_in_a_local_static);
    CASE(hold_in_a_struct);
    CASE(hold_in_a_sealed_page);
    CASE(overwrite);
    if (argc > 2)
        hold_in_an_argument(argv[2]);
    CASE(hold_in_the_environment);
    judged();
    return 0;
}
