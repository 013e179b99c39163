/* What the loops of `cargo xtask bench` share: a budget of time, and what was done within it. */
#pragma once

#include <stdint.h>
#include <time.h>

/* One measurement: filled in by the thread that makes it. */
struct run {
    uint64_t budget_ns; /* of the thread's CPU time */
    uint64_t cpu_ns;    /* used */
    uint64_t wall_ns;   /* passed meanwhile */
    uint64_t units;     /* pairs of malloc and free, or calls of realloc */
};

static inline uint64_t now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* Runs `work(units)` in growing batches until the budget is spent. In a header, so that it has a frame pointer where the
 * code around it has one, and a frame of its own in any case. */
__attribute__((noinline)) static void spend(struct run *run, void (*work)(uint64_t units))
{
    /* Reading the clock costs what tens of pairs cost: a batch is to last much longer, the last one not too long. */
    const uint64_t longest = run->budget_ns / 16;
    uint64_t wall = now(CLOCK_MONOTONIC), start = now(CLOCK_THREAD_CPUTIME_ID), last = start, batch = 64;
    run->units = 0;
    do {
        work(batch);
        run->units += batch;
        uint64_t here = now(CLOCK_THREAD_CPUTIME_ID);
        if (here - last < longest / 2)
            batch *= 2;
        last = here;
    } while (last - start < run->budget_ns);
    run->cpu_ns = last - start;
    run->wall_ns = now(CLOCK_MONOTONIC) - wall;
}

/* Pairs of malloc(64) and free under `depth` frames; the same code with and without frame pointers. */
void deep_with_frame_pointers(struct run *run, int depth);
void deep_without_frame_pointers(struct run *run, int depth);
