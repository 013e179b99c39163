/* An allocator of its own, by names with a prefix, beside the C library's: my_malloc and so on, from a static arena. */
#include "victim.h"

#define ROUNDS 25

enum { MALLOC, CALLOC, REALLOC, LIBC, SITES };
static struct site sites[SITES] = {SITE(leak_mine), SITE(leak_my_calloc), SITE(leak_my_realloc), SITE(leak_libc)};

static char arena[1 << 20] __attribute__((aligned(64)));
static size_t used;

/* Each block is preceded by its size; what was freed is used again if it fits exactly. */
struct header {
    size_t size;
    struct header *next;
};
static struct header *freed;

__attribute__((noinline, used)) void *my_malloc(size_t size)
{
    for (struct header **p = &freed; *p; p = &(*p)->next)
        if ((*p)->size == size) {
            struct header *found = *p;
            *p = found->next;
            return found + 1;
        }
    size_t room = (size + sizeof(struct header) + 15) & ~(size_t)15;
    if (used + room > sizeof arena)
        return NULL;
    struct header *header = (struct header *)(arena + used);
    used += room;
    header->size = size;
    return header + 1;
}

__attribute__((noinline, used)) void my_free(void *block)
{
    if (block) {
        struct header *header = (struct header *)block - 1;
        header->next = freed;
        freed = header;
    }
}

__attribute__((noinline, used)) void *my_calloc(size_t n, size_t size)
{
    void *p = my_malloc(n * size);
    return p ? memset(p, 0, n * size) : NULL;
}

__attribute__((noinline, used)) void *my_realloc(void *block, size_t size)
{
    void *p = my_malloc(size);
    if (p && block) {
        size_t old = ((struct header *)block - 1)->size;
        memcpy(p, block, old < size ? old : size);
        my_free(block);
    }
    return p;
}

SITE_FN static void *leak_mine(size_t size)
{
    void *p = my_malloc(size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_my_calloc(size_t n, size_t size)
{
    void *p = my_calloc(n, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_my_realloc(void *old, size_t size)
{
    void *p = my_realloc(old, size);
    KEEP_FRAME();
    return p;
}

SITE_FN static void *leak_libc(size_t size)
{
    void *p = malloc(size);
    KEEP_FRAME();
    return p;
}

int main(int argc, char **argv)
{
    static void *kept[ROUNDS];
    victim_begin(argc, argv);
    for (size_t i = 1; i <= ROUNDS; i++) {
        void *mine = leak_mine(10 * i);
        book(&sites[MALLOC], 10 * i);
        if (i % 2) {
            my_free(mine);
            unbook(&sites[MALLOC], 10 * i);
        } else {
            (void)leak_my_realloc(mine, 30 * i);
            unbook(&sites[MALLOC], 10 * i);
            book(&sites[REALLOC], 30 * i);
        }
        (void)leak_my_calloc(i, 7);
        book(&sites[CALLOC], i * 7);
        kept[i - 1] = leak_libc(5 * i);
        book(&sites[LIBC], 5 * i);
        my_free(NULL);
    }
    __asm__ volatile("" : : "r"(kept) : "memory");
    report_all(sites, SITES);
    victim_end();
    return 0;
}
