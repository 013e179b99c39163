/* A library for tls.c to load: its thread-local variables hold two blocks. The big one gives the library more of them
 * than what ld.so keeps free for libraries that are loaded later. */
static __thread void *volatile small;
static __thread void *volatile big[1024];

__attribute__((visibility("default"))) void hold_in_library(void *in_small, void *in_big)
{
    small = in_small;
    big[1000] = in_big;
}
