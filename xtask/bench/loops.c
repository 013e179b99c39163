/* Loops over malloc and free for `cargo xtask bench`.
 *
 * usage: loops CPU     (-1: wherever the scheduler likes)
 * In: lines `MODE MILLISECONDS`, or `hold THOUSANDS`, or `graph THOUSANDS`. Out: for each, a line `CPU_NS WALL_NS UNITS`, the sum of all threads
 * (WALL_NS: the longest). The process stays, so that tracers come and go between two lines. CPU time is that of the threads themselves,
 * so that a busy machine changes little.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "loops.h"

#define THREADS 4
#define LIVE 256
#define IDLE 8

static void flat_pairs(uint64_t units)
{
    for (uint64_t i = 0; i < units; i++) {
        char *volatile block = malloc(64);
        free(block);
    }
}

/* Sizes from 16 B to 32 KiB, each octave as likely as any other, and blocks that outlive 256 younger ones. */
static void mixed_pairs(uint64_t units)
{
    static char *live[LIVE];
    static uint32_t random = 2463534242;
    for (uint64_t i = 0; i < units; i++) {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        size_t octave = 16u << (random >> 8) % 11;
        char **slot = &live[i % LIVE];
        free(*slot);
        *slot = malloc(octave + (random >> 16) % octave);
    }
}

/* One block that grows and shrinks; every call of realloc is a unit. */
static void reallocs(uint64_t units)
{
    char *block = malloc(64);
    for (uint64_t i = 0; i < units; i++) {
        char *volatile moved = realloc(block, i % 2 ? 64 : 96);
        block = moved;
    }
    free(block);
}

/* Blocks of 16 to 23 bytes, a list through themselves. */
static void *held;

static void hold(uint64_t units)
{
    for (uint64_t i = 0; i < units; i++) {
        void **block = malloc(16 + i % 8);
        if (block == NULL)
            abort();
        *block = held;
        held = block;
    }
}

static void let_go(void)
{
    while (held != NULL) {
        void **block = held;
        held = *block;
        free(block);
    }
}

static void *idle(void *unused)
{
    for (;;)
        pause();
    return unused;
}

/* Blocks of 1 KiB, each with pointers to four others at random beside the list, and threads that wait meanwhile. */
static void graph(uint64_t units)
{
    static int has_threads;
    void ***blocks = malloc(units * sizeof *blocks);
    uint64_t random = 88172645463325252;
    if (blocks == NULL)
        abort();
    for (uint64_t i = 0; i < units; i++) {
        blocks[i] = malloc(1008);
        if (blocks[i] == NULL)
            abort();
        memset(blocks[i], 0, 1008);
        blocks[i][0] = held;
        held = blocks[i];
    }
    for (uint64_t i = 0; i < units; i++)
        for (int pointer = 1; pointer <= 4; pointer++) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            blocks[i][pointer * 20] = blocks[random % units];
        }
    free(blocks);
    for (; has_threads < IDLE; has_threads++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, idle, NULL) != 0)
            abort();
    }
}

static void *flat_thread(void *run)
{
    spend(run, flat_pairs);
    return NULL;
}

static void threads(struct run *run)
{
    pthread_t thread[THREADS];
    struct run runs[THREADS];
    for (int i = 0; i < THREADS; i++) {
        runs[i] = (struct run){.budget_ns = run->budget_ns};
        if (pthread_create(&thread[i], NULL, flat_thread, &runs[i]) != 0)
            abort();
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        run->cpu_ns += runs[i].cpu_ns;
        run->units += runs[i].units;
        if (runs[i].wall_ns > run->wall_ns)
            run->wall_ns = runs[i].wall_ns;
    }
}

int main(int argc, char **argv)
{
    int cpu = argc > 1 ? atoi(argv[1]) : -1;
    if (cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set) != 0) {
            perror("loops: sched_setaffinity");
            return 1;
        }
    }
    char mode[32];
    unsigned long milliseconds;
    while (scanf("%31s %lu", mode, &milliseconds) == 2) {
        struct run run = {.budget_ns = milliseconds * 1000000};
        if (strcmp(mode, "flat") == 0)
            spend(&run, flat_pairs);
        else if (strcmp(mode, "deep") == 0)
            deep_with_frame_pointers(&run, 8);
        else if (strcmp(mode, "deep-no-fp") == 0)
            deep_without_frame_pointers(&run, 10);
        else if (strcmp(mode, "threads") == 0)
            threads(&run);
        else if (strcmp(mode, "mixed") == 0)
            spend(&run, mixed_pairs);
        else if (strcmp(mode, "realloc") == 0)
            spend(&run, reallocs);
        else if (strcmp(mode, "hold") == 0) {
            let_go();
            run.units = milliseconds * 1000;
            hold(run.units);
        }
        else if (strcmp(mode, "graph") == 0) {
            let_go();
            run.units = milliseconds * 1000;
            graph(run.units);
        }
        else {
            fprintf(stderr, "loops: no mode %s\n", mode);
            return 2;
        }
        printf("%lu %lu %lu\n", run.cpu_ns, run.wall_ns, run.units);
        fflush(stdout);
    }
    return 0;
}
