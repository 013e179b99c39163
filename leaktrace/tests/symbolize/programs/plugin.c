/* A shared object, for programs that load it. */
#include "report.h"

__attribute__((noinline)) const void *plugin_address(void) { return __builtin_return_address(0); }

__attribute__((noinline, noipa)) const void *plugin_entry(void) {
    const void *here = plugin_address(); /* LINE plugin_entry */
    __asm__ volatile("" ::: "memory");
    return here;
}
