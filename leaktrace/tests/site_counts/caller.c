/* Calls allocation functions by name, from several threads, and frees what they give.
 *
 * caller LIBRARY NAME=KIND,A,B,C...
 *
 * KIND is that of the plan; A, B and C are the positions of the arguments it reads, counted from 0. All other arguments are
 * 64: an alignment, a size for functions that are told one when freeing (blocks have 64 bytes and are aligned to 64 then),
 * or flags (of jemalloc: zero the memory); but the first one of mimalloc's heap functions is a heap. What could not be
 * called is printed, one name a line.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, ROUNDS = 25, OTHER = 64, LARGE = 200000 };

typedef uintptr_t word;
typedef word function(word, word, word, word, word, word);

struct call {
    function *function;
    char name[128], kind[32];
    unsigned position[3];
};

static void *library;
static function *own_malloc, *own_free, *own_aligned;
static struct call *calls;
static int count;

static function *find(const char *name) {
    return (function *)dlsym(library, name);
}

/* mimalloc's heap functions take a heap first; which function gives one depends on the version. */
static word heap_for(const char *name) {
    function *get = NULL;
    if (!strncmp(name, "mi_theap_", 9))
        get = find("mi_theap_get_default");
    else if (!strncmp(name, "mi_heap_", 8) && !(get = find("mi_heap_get_default")))
        get = find("mi_heap_main");
    return get ? get(0, 0, 0, 0, 0, 0) : 0;
}

static word invoke(const struct call *call, word a, word b, word c) {
    word arguments[6] = {OTHER, OTHER, OTHER, OTHER, OTHER, OTHER};
    if (call->position[0] == 1)
        arguments[0] = heap_for(call->name);
    arguments[call->position[2]] = c;
    arguments[call->position[1]] = b;
    arguments[call->position[0]] = a;
    return call->function(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}

static void release(word block) {
    own_free(block, 0, 0, 0, 0, 0);
}

static void exercise(const struct call *call, unsigned round) {
    static const word sizes[] = {0, 1, 24, 64, 1000, 1024, 1025, 4096, 40000, LARGE};
    word size = sizes[round % (sizeof sizes / sizeof *sizes)];
    if (strstr(call->name, "small"))
        size %= 1025;
    const char *kind = call->kind;
    if (!strcmp(kind, "malloc")) {
        release(invoke(call, size, OTHER, OTHER));
    } else if (!strcmp(kind, "calloc")) {
        release(invoke(call, size / 8, 8, OTHER));
    } else if (!strcmp(kind, "memalign")) {
        release(invoke(call, OTHER, size, OTHER));
    } else if (!strcmp(kind, "posix_memalign")) {
        word block = 0;
        if (!invoke(call, (word)&block, OTHER, size))
            release(block);
        if (!invoke(call, (word)&block, 3, size)) /* no alignment: fails */
            abort();
    } else if (!strcmp(kind, "realloc")) {
        /* rallocx, unlike the others, takes no NULL. */
        word first = strstr(call->name, "rallocx") ? own_malloc(1, 0, 0, 0, 0, 0) : 0;
        word block = invoke(call, first, size + 1, OTHER);
        block = invoke(call, block, size + 2, OTHER);
        release(invoke(call, block, 2 * size + 2000, OTHER));
    } else if (!strcmp(kind, "reallocarray")) {
        word block = invoke(call, 0, size / 8 + 1, 8);
        release(invoke(call, block, size / 8 + 100, 9));
    } else if (!strcmp(kind, "xallocx")) {
        word block = own_malloc(size + 1, 0, 0, 0, 0, 0);
        invoke(call, block, size + 2, 10);
        invoke(call, block, 2 * size + 5000, 0);
        release(block);
    } else if (!strcmp(kind, "free")) {
        invoke(call, own_aligned(OTHER, OTHER, 0, 0, 0, 0), OTHER, OTHER);
        if (strncmp(call->name, "dallocx", 7) && strncmp(call->name, "sdallocx", 8) && !strstr(call->name, "nonnull"))
            invoke(call, 0, OTHER, OTHER);
    }
}

static void *work(void *unused) {
    (void)unused;
    for (unsigned round = 0; round < ROUNDS; round++)
        for (int i = 0; i < count; i++)
            exercise(&calls[i], round);
    return NULL;
}

static int is_callable(const struct call *call) {
    if (!call->function || !strcmp(call->kind, "strdup"))
        return 0;
    /* Pointers to write through, blocks of this very thread: not what this program passes. */
    if (!strncmp(call->name, "mi_u", 4) || strstr(call->name, "_local"))
        return 0;
    return call->position[0] != 1 || heap_for(call->name);
}

int main(int argc, char **argv) {
    library = dlopen(argv[1], RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    own_malloc = find("malloc");
    own_free = find("free");
    own_aligned = find("aligned_alloc");
    calls = calloc(argc, sizeof *calls);
    for (int i = 2; i < argc; i++) {
        struct call *call = &calls[count];
        if (sscanf(argv[i], "%127[^=]=%31[^,],%u,%u,%u", call->name, call->kind, &call->position[0], &call->position[1],
                   &call->position[2]) != 5)
            return 2;
        call->function = find(call->name);
        if (is_callable(call))
            count++;
        else
            printf("%s\n", call->name);
    }
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
