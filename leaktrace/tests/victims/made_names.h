/* Names for code that was made at run time, as just-in-time compilers leave them for perf: /tmp/perf-PID.map. */
#ifndef MADE_NAMES_H
#define MADE_NAMES_H

#include "victim.h"

static FILE *made_names;
static char made_names_path[64];

static inline void made_names_begin(void)
{
    /* What it writes with takes no memory from the allocator. */
    static char buffer[4096];
    snprintf(made_names_path, sizeof made_names_path, "/tmp/perf-%d.map", (int)getpid());
    made_names = fopen(made_names_path, "w");
    victim_require(made_names != NULL, "no map of names");
    setvbuf(made_names, buffer, _IOFBF, sizeof buffer);
}

/* Copies a function there and names it. */
static inline void made_names_put(char *code, const char *begin, const char *end, const char *name)
{
    memcpy(code, begin, (size_t)(end - begin));
    fprintf(made_names, "%lx %lx %s\n", (unsigned long)code, (unsigned long)(end - begin), name);
    fflush(made_names);
}

static inline void made_names_end(void)
{
    unlink(made_names_path);
}

#endif
