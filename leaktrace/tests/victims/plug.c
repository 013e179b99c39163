/* A plug-in for plugins.c: leaks SIZE bytes at each call, by functions that are called after PLUG. With PAD they lie elsewhere in
 * it than without.
 */
#include <stdlib.h>

#define JOIN_AGAIN(a, b) a##b
#define JOIN(a, b) JOIN_AGAIN(a, b)

static void *volatile kept;

#ifdef PAD
__attribute__((noinline, noclone, used)) int padding(int n)
{
    for (int i = 0; i < n; i++)
        kept = (char *)&kept + i * n;
    return n * 3;
}
#endif

__attribute__((noinline, noclone, used)) void JOIN(leak_, PLUG)(void)
{
    kept = malloc(SIZE);
    __asm__ volatile("" ::: "memory");
}

__attribute__((noinline, noclone, used)) void JOIN(step_, PLUG)(void)
{
    JOIN(leak_, PLUG)();
    __asm__ volatile("" ::: "memory");
}

size_t plug_size(void)
{
    return SIZE;
}

void plug_run(void)
{
#ifdef PAD
    padding(3);
#endif
    JOIN(step_, PLUG)();
    __asm__ volatile("" ::: "memory");
}
