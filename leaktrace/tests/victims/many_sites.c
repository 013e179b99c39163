/* One block from each of 50,000 call paths, through 10,000 places in which two calls are inlined: a report of them takes time.
 *
 *     many_sites wait|run
 */
#include "victim.h"

enum { EVERYWHERE, SITES };
static struct site sites[SITES] = {SITE(leak_everywhere)};

#define INLINED __attribute__((always_inline)) static inline

INLINED void innermost(size_t size)
{
    void *volatile p = malloc(size);
    victim_require(p != NULL, "out of memory");
    sites[EVERYWHERE].allocs += 1;
    sites[EVERYWHERE].alloc_bytes += size;
}

INLINED void inner(size_t size)
{
    innermost(size + 8);
    KEEP_FRAME();
}

#define TEN(what) what what what what what what what what what what
#define HUNDRED(what) TEN(TEN(what))

#define FUNCTION(number) \
    SITE_FN static void function##number(size_t size) { HUNDRED(inner(size);) }
#define CALL(number) function##number(size);
#define EACH_OF_TEN(what, n) \
    what(n##0) what(n##1) what(n##2) what(n##3) what(n##4) what(n##5) what(n##6) what(n##7) what(n##8) what(n##9)
#define EACH(what) \
    EACH_OF_TEN(what, 0) EACH_OF_TEN(what, 1) EACH_OF_TEN(what, 2) EACH_OF_TEN(what, 3) EACH_OF_TEN(what, 4) \
    EACH_OF_TEN(what, 5) EACH_OF_TEN(what, 6) EACH_OF_TEN(what, 7) EACH_OF_TEN(what, 8) EACH_OF_TEN(what, 9)

EACH(FUNCTION)

SITE_FN static void all(size_t size)
{
    EACH(CALL)
}

SITE_FN static void leak_everywhere(void)
{
    all(8);
    KEEP_FRAME();
    all(16);
    KEEP_FRAME();
    all(24);
    KEEP_FRAME();
    all(32);
    KEEP_FRAME();
    all(40);
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    leak_everywhere();
    report_all(sites, SITES);
    victim_end();
    return 0;
}
