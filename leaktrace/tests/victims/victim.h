/* What every C and C++ victim shares: its accounting and its conversation with the test that runs it.
 *
 * A victim knows what it asked its allocator for and says so itself, one JSON object per line on standard output, with
 * no help from hooks: that is the truth the tracer is compared with. It writes by write(2) from a static buffer, so
 * that talking allocates nothing and a victim's totals are exact.
 *
 * Arguments: `VICTIM wait ...` says "ready", waits for a byte on standard input, works, says "done", waits for another
 * byte and ends; `VICTIM run ...` works and ends. A site is named after the function that leaks, which is noinline and
 * has a frame pointer, so that its name stands in the stack.
 */
#ifndef VICTIM_H
#define VICTIM_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A function whose name must appear in stacks; the barrier keeps calls from becoming jumps. */
#define SITE_FN __attribute__((noinline, noclone, used))
#define KEEP_FRAME() __asm__ volatile("" ::: "memory")

/* What one function's blocks came to. `outstanding_only` where the C library sizes its inner blocks as it likes. */
struct site {
    const char *name;
    uint64_t allocs, alloc_bytes, frees, free_bytes;
    int outstanding_only;
};
#define SITE(function) {#function, 0, 0, 0, 0, 0}
#define SITE_OUTSTANDING_ONLY(function) {#function, 0, 0, 0, 0, 1}

static inline void book(struct site *site, size_t bytes)
{
    site->allocs += 1;
    site->alloc_bytes += bytes;
}

static inline void unbook(struct site *site, size_t bytes)
{
    site->frees += 1;
    site->free_bytes += bytes;
}

/* Stops the victim where the machine does not behave as its accounting assumes: the test fails with this sentence. */
__attribute__((noreturn, unused)) static void victim_fail(const char *why)
{
    char line[256];
    int length = snprintf(line, sizeof line, "victim: %s\n", why);
    if (write(2, line, (size_t)length) < 0) { /* nobody left to tell */
    }
    _exit(99);
}

__attribute__((unused)) static void victim_require(int condition, const char *why)
{
    if (!condition)
        victim_fail(why);
}

__attribute__((format(printf, 1, 2), unused)) static void victim_say(const char *format, ...)
{
    static __thread char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    /* One write per line: lines of several processes on one pipe never mix. */
    while (write(1, line, (size_t)length) < 0)
        if (errno != EINTR)
            victim_fail("standard output is gone");
}

static int victim_waits;

/* Waits for the test's byte; the end of the pipe means that the test is gone, and so are we. */
__attribute__((unused)) static void victim_await(void)
{
    char byte;
    ssize_t n;
    if (!victim_waits)
        return;
    do
        n = read(0, &byte, 1);
    while (n < 0 && errno == EINTR);
    if (n != 1)
        _exit(98);
}

__attribute__((unused)) static void victim_begin(int argc, char **argv)
{
    if (argc < 2 || (strcmp(argv[1], "wait") != 0 && strcmp(argv[1], "run") != 0))
        victim_fail("usage: VICTIM wait|run [ARGUMENTS]");
    victim_waits = strcmp(argv[1], "wait") == 0;
    if (victim_waits) {
        victim_say("ready\n");
        victim_await();
    }
}

__attribute__((unused)) static unsigned long victim_number(int argc, char **argv, int index, unsigned long otherwise)
{
    return argc > index ? strtoul(argv[index], NULL, 10) : otherwise;
}

__attribute__((unused)) static void report_site(const struct site *site)
{
    uint64_t bytes = site->alloc_bytes - site->free_bytes, count = site->allocs - site->frees;
    if (site->outstanding_only)
        victim_say("{\"site\":\"%s\",\"pid\":%d,\"bytes\":%lu,\"count\":%lu}\n", site->name, (int)getpid(),
                   (unsigned long)bytes, (unsigned long)count);
    else
        victim_say("{\"site\":\"%s\",\"pid\":%d,\"bytes\":%lu,\"count\":%lu,\"allocs\":%lu,\"alloc_bytes\":%lu,"
                   "\"frees\":%lu,\"free_bytes\":%lu}\n",
                   site->name, (int)getpid(), (unsigned long)bytes, (unsigned long)count, (unsigned long)site->allocs,
                   (unsigned long)site->alloc_bytes, (unsigned long)site->frees, (unsigned long)site->free_bytes);
}

/* Reports the sites and their sum, which is everything this process ever asked of the allocator. */
__attribute__((unused)) static void report_all(const struct site *sites, size_t n)
{
    struct site sum = SITE(total);
    for (size_t i = 0; i < n; i++) {
        report_site(&sites[i]);
        sum.allocs += sites[i].allocs;
        sum.alloc_bytes += sites[i].alloc_bytes;
        sum.frees += sites[i].frees;
        sum.free_bytes += sites[i].free_bytes;
    }
    victim_say("{\"total\":true,\"pid\":%d,\"allocs\":%lu,\"alloc_bytes\":%lu,\"frees\":%lu,\"free_bytes\":%lu}\n",
               (int)getpid(), (unsigned long)sum.allocs, (unsigned long)sum.alloc_bytes, (unsigned long)sum.frees,
               (unsigned long)sum.free_bytes);
}

/* A fact about this run that is no site: frees of blocks from before the trace, calls that never returned, ... */
__attribute__((unused)) static void report_fact(const char *name, unsigned long value)
{
    victim_say("{\"fact\":\"%s\",\"value\":%lu}\n", name, value);
}

__attribute__((unused)) static void victim_end(void)
{
    if (victim_waits) {
        victim_say("done\n");
        victim_await();
    }
}

#endif
