/* Draws samples of its own allocations and tells of them, as OpenTelemetry's memory profiling has it, at places made by systemtap's
 * header. Does what it is told, one line of standard input after the other, and answers each with "ok".
 *
 *     a SIZE COUNT WEIGHT  COUNT blocks of SIZE bytes that stand for WEIGHT each
 *     u SIZE COUNT         COUNT blocks that are not drawn
 *     f COUNT              frees the COUNT oldest blocks
 *     s                    says how many probes there are at "alloc" and at "free"
 */
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>

#include "victim.h"

unsigned short otel_memory_alloc_semaphore __attribute__((section(".probes"), visibility("hidden"))) = 0;
unsigned short otel_memory_free_semaphore __attribute__((section(".probes"), visibility("hidden"))) = 0;

#define MAX_BLOCKS 100000

static struct {
    void *address;
    int is_drawn;
} blocks[MAX_BLOCKS];
static size_t first, last;

/* Arguments in registers and in memory, and a constant. */
SITE_FN static void *draw(size_t size, unsigned long weight)
{
    volatile unsigned int narrow = (unsigned int)size;
    void *p = malloc(size);
    if (otel_memory_alloc_semaphore > 0) {
        if (size == 77)
            STAP_PROBE3(otel_memory, alloc, p, 77, weight);
        else if (size > 1000000)
            STAP_PROBE3(otel_memory, alloc, p, size, weight);
        else
            STAP_PROBE3(otel_memory, alloc, p, narrow, weight);
    }
    KEEP_FRAME();
    return p;
}

SITE_FN static void undraw(void *p)
{
    if (otel_memory_free_semaphore > 0)
        STAP_PROBE1(otel_memory, free, p);
    KEEP_FRAME();
}

static int read_line(char *line, size_t size)
{
    size_t n = 0;
    while (n + 1 < size && read(0, line + n, 1) == 1) {
        if (line[n] == '\n') {
            line[n] = 0;
            return 1;
        }
        n++;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static char line[256];
    victim_begin(argc, argv);
    while (read_line(line, sizeof line)) {
        char *rest = line + 1;
        unsigned long x = strtoul(rest, &rest, 10), y = strtoul(rest, &rest, 10), z = strtoul(rest, &rest, 10);
        if (line[0] == 's') {
            victim_say("semaphores %hu %hu\n", otel_memory_alloc_semaphore, otel_memory_free_semaphore);
        }
        for (; (line[0] == 'a' || line[0] == 'u') && y > 0; y--, last++) {
            victim_require(last < MAX_BLOCKS, "too many blocks");
            blocks[last].is_drawn = line[0] == 'a';
            blocks[last].address = line[0] == 'a' ? draw(x, z) : malloc(x);
        }
        for (; line[0] == 'f' && x > 0; x--, first++) {
            if (blocks[first].is_drawn)
                undraw(blocks[first].address);
            free(blocks[first].address);
        }
        victim_say("ok\n");
    }
    return 0;
}
