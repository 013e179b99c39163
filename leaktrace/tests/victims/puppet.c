/* Does what it is told, one line of standard input after the other, and answers each with "ok".
 *
 *     a SITE SIZE COUNT    COUNT blocks of SIZE bytes at leak_a, leak_b or leak_c
 *     f SITE COUNT         frees the COUNT oldest blocks of that site
 *     l SITE COUNT         loses their addresses instead
 *     h SITE COUNT         hides the addresses of the COUNT oldest: they stand nowhere as they are, and can still be freed
 *     r                    reports
 *     q STATUS             ends
 */
#include "victim.h"

#define MAX_BLOCKS 100000

enum { A, B, C, SITES };
static struct site sites[SITES] = {SITE(leak_a), SITE(leak_b), SITE(leak_c)};

struct block {
    uintptr_t address;
    int is_hidden;
    size_t size;
};
static struct block blocks[SITES][MAX_BLOCKS];
static size_t first[SITES], last[SITES];

SITE_FN static void *leak_a(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_b(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_c(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

static int read_line(char *line, size_t size)
{
    size_t n = 0;
    while (n + 1 < size) {
        ssize_t got = read(0, line + n, 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got != 1)
            return 0;
        if (line[n] == '\n')
            break;
        n++;
    }
    line[n] = 0;
    return 1;
}

static void allocate(int site, size_t size, size_t count)
{
    while (count-- > 0) {
        void *p = site == A ? leak_a(size) : site == B ? leak_b(size) : leak_c(size);
        victim_require(p != NULL && last[site] < MAX_BLOCKS, "out of memory");
        blocks[site][last[site]++] = (struct block){(uintptr_t)p, 0, size};
        book(&sites[site], size);
    }
}

static void release(int site, size_t count)
{
    while (count-- > 0) {
        victim_require(first[site] < last[site], "nothing left to free");
        struct block *b = &blocks[site][first[site]++];
        free((void *)(b->is_hidden ? ~b->address : b->address));
        unbook(&sites[site], b->size);
    }
}

static void lose(int site, size_t count)
{
    while (count-- > 0) {
        victim_require(first[site] < last[site], "nothing left to lose");
        blocks[site][first[site]++].address = 0;
    }
}

static void hide(int site, size_t count)
{
    for (size_t at = first[site]; at < first[site] + count; at++) {
        victim_require(at < last[site], "nothing left to hide");
        blocks[site][at].address = ~blocks[site][at].address;
        blocks[site][at].is_hidden = 1;
    }
}

int main(int argc, char **argv)
{
    static char line[256];
    victim_begin(argc, argv);
    while (read_line(line, sizeof line)) {
        char *rest = line + 1;
        int site = 0;
        if (strchr("aflh", line[0]) != NULL && line[0] != 0) {
            rest = line + 3;
            site = line[2] - 'a';
            victim_require(site >= A && site <= C, "no such site");
        }
        unsigned long x = strtoul(rest, &rest, 10), y = strtoul(rest, &rest, 10);
        switch (line[0]) {
        case 'a':
            allocate(site, x, y);
            break;
        case 'f':
            release(site, x);
            break;
        case 'l':
            lose(site, x);
            break;
        case 'h':
            hide(site, x);
            break;
        case 'r':
            report_all(sites, SITES);
            break;
        case 'q':
            return (int)x;
        default:
            victim_fail("no such command");
        }
        victim_say("ok\n");
    }
    return 0;
}
