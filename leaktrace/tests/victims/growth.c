/* What grows and what does not: one use of memory in each process, in time that runs faster.
 *
 * Arguments: SHAPE SEED MILLISECONDS SPEED. Works for so long, each second of which stands for SPEED seconds. The site of a
 * shape that leaks is a function leak_SHAPE, that of another fine_SHAPE. The site "left" of its account is what it will never free.
 * Those blocks are in a list: they can be reached, as in most programs that grow.
 */
#include "victim.h"
#include <pthread.h>
#include <time.h>

struct block {
    struct block *next;
    double due; /* when it is freed */
    size_t size;
};

static double speed, total; /* in its own seconds, as all times below */
static uint64_t state;
static struct block *left;
static size_t left_bytes, left_count;

static double monotonic(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static uint64_t draw(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static double uniform(void)
{
    return (double)((draw() >> 11) + 1) * 0x1p-53;
}

static double most(double a, double b)
{
    return a > b ? a : b;
}

/* Between events that come at random: -ln(uniform), by the series of atanh. */
static double exponential(double mean)
{
    double x = uniform(), logarithm = 0;
    for (; x < 0.7; x *= 2)
        logarithm -= 0.69314718056;
    double y = (x - 1) / (x + 1), square = y * y;
    return -mean * (logarithm + 2 * y * (1 + square / 3 + square * square / 5 + square * square * square / 7));
}

/* How many events of a rate come in a step. */
static int events(double rate, double step)
{
    int count = 0;
    for (double sum = exponential(1); sum < rate * step; sum += exponential(1))
        count++;
    return count;
}

/* Blocks by the time at which they are freed: a binary heap. */
static struct block *heap[1 << 20];
static size_t scheduled;

static void schedule(struct block *block, double due)
{
    victim_require(scheduled < sizeof heap / sizeof *heap, "too many blocks");
    block->due = due;
    size_t at = scheduled++;
    for (; at > 0 && heap[(at - 1) / 2]->due > due; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = block;
}

static void free_due(double now)
{
    while (scheduled > 0 && heap[0]->due <= now) {
        free(heap[0]);
        struct block *last = heap[--scheduled];
        size_t at = 0, child;
        while ((child = 2 * at + 1) < scheduled) {
            if (child + 1 < scheduled && heap[child + 1]->due < heap[child]->due)
                child++;
            if (heap[child]->due >= last->due)
                break;
            heap[at] = heap[child], at = child;
        }
        heap[at] = last;
    }
}

static void lose(struct block *block)
{
    block->next = left, left = block;
    left_bytes += block->size, left_count++;
}

/* A queue of blocks, the oldest first. */
static struct block *oldest, **end = &oldest;
static size_t queued;

static void enqueue(struct block *block)
{
    block->next = NULL, *end = block, end = &block->next, queued++;
}

static void free_oldest(void)
{
    struct block *block = oldest;
    oldest = block->next, queued--;
    if (oldest == NULL)
        end = &oldest;
    free(block);
}

static void free_queue(void)
{
    while (queued > 0)
        free_oldest();
}

#define MAKER(name)                                                                                                    \
    static SITE_FN struct block *name(void)                                                                            \
    {                                                                                                                  \
        size_t size = sizeof(struct block) + 8 + draw() % 200;                                                         \
        struct block *block = malloc(size);                                                                            \
        memset(block, 1, size);                                                                                        \
        block->size = size;                                                                                            \
        KEEP_FRAME();                                                                                                  \
        return block;                                                                                                  \
    }
MAKER(leak_linear)
MAKER(leak_slow)
MAKER(leak_steps)
MAKER(leak_batch)
MAKER(leak_connection)
MAKER(leak_listener)
MAKER(leak_map)
MAKER(leak_thread)
MAKER(fine_sawtooth)
MAKER(fine_diurnal)
MAKER(fine_ramp)
MAKER(fine_fifo_full)
MAKER(fine_fifo_filling)
MAKER(fine_lru_full)
MAKER(fine_lru_filling)
MAKER(fine_warm_up)
MAKER(fine_spikes)
MAKER(fine_heavy_tail)
MAKER(fine_pool)
MAKER(fine_log)
MAKER(fine_replaced)

static SITE_FN struct block *leak_even(void)
{
    struct block *block = malloc(100);
    block->size = 100;
    KEEP_FRAME();
    return block;
}

/* One block in each hundredth of a second, and one that is freed. */
static void even(double now, double step)
{
    static double next;
    static int keeps;
    (void)step;
    for (; next <= now; next += 0.005) {
        struct block *block = leak_even();
        keeps = !keeps;
        if (keeps)
            lose(block);
        else
            schedule(block, now + 0.05);
    }
}

/* One request in twenty leaks. */
static void linear(double now, double step)
{
    for (int n = events(20, step); n > 0; n--) {
        struct block *block = leak_linear();
        if (uniform() < 0.05)
            lose(block);
        else
            schedule(block, now + exponential(2));
    }
}

/* One block in five seconds, among a hundred in each. */
static void slow(double now, double step)
{
    static double next;
    for (int n = events(100, step); n > 0; n--) {
        struct block *block = leak_slow();
        if (now >= next)
            lose(block), next = now + 5;
        else
            schedule(block, now + exponential(1));
    }
}

static void steps(double now, double step)
{
    static double next = 20;
    int losing = now >= next ? 20 : 0;
    if (losing > 0)
        next = now + 40 + 20 * uniform();
    for (int n = events(20, step) + losing; n > 0; n--) {
        struct block *block = leak_steps();
        if (losing-- > 0)
            lose(block);
        else
            schedule(block, now + exponential(2));
    }
}

static void batch(double now, double step)
{
    static double next = 5;
    (void)step;
    if (now < next)
        return;
    for (int n = 0; n < 200; n++) {
        struct block *block = leak_batch();
        if (n < 3)
            lose(block);
        else
            schedule(block, now + 4 * uniform());
    }
    next = now + 15 + 15 * uniform();
}

/* Three blocks for each connection; one in ten forgets the second at its end. */
static void connection(double now, double step)
{
    for (int n = events(2, step); n > 0; n--) {
        double closed = now + 5 + 25 * uniform();
        int forgets = uniform() < 0.1;
        for (int part = 0; part < 3; part++) {
            struct block *block = leak_connection();
            if (part == 1 && forgets)
                lose(block);
            else
                schedule(block, closed);
        }
    }
}

static void listener(double now, double step)
{
    for (int n = events(4, step); n > 0; n--) {
        struct block *block = leak_listener();
        if (uniform() < 0.3)
            lose(block);
        else
            schedule(block, now + exponential(5));
    }
}

/* A map of which four keys in ten are never removed. */
static void map(double now, double step)
{
    for (int n = events(5, step); n > 0; n--) {
        struct block *block = leak_map();
        if (uniform() < 0.4)
            lose(block);
        else
            schedule(block, now + 2 + exponential(3));
    }
}

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static double moment;

static void *work(void *leaks)
{
    for (;;) {
        pthread_mutex_lock(&one_at_a_time);
        for (int n = moment < total ? events(5, 0.004 * speed) : 0; n > 0; n--) {
            struct block *block = leak_thread();
            if (leaks != NULL && uniform() < 0.1)
                lose(block);
            else
                schedule(block, moment + exponential(2));
        }
        pthread_mutex_unlock(&one_at_a_time);
        usleep(4000);
    }
    return NULL;
}

/* One thread of four leaks. */
static void thread(double now, double step)
{
    static pthread_t threads[4];
    static int started;
    (void)step;
    moment = now;
    for (; started < 4; started++)
        pthread_create(&threads[started], NULL, work, started == 2 ? threads : NULL);
}

static void sawtooth(double now, double step)
{
    static double next = 45;
    for (int n = events(20, step); n > 0; n--)
        enqueue(fine_sawtooth());
    if (now >= next)
        free_queue(), next = now + 30 + 30 * uniform();
}

/* Load that rises and falls three times. */
static void diurnal(double now, double step)
{
    double phase = 3 * now / total;
    phase -= (double)(int)phase;
    double load = 5 + 80 * (phase < 0.5 ? phase : 1 - phase);
    for (int n = events(load, step); n > 0; n--)
        schedule(fine_diurnal(), now + exponential(4));
}

/* Load that rises all the time. */
static void ramp(double now, double step)
{
    for (int n = events(5 + 40 * now / total, step); n > 0; n--)
        schedule(fine_ramp(), now + 1 + 4 * uniform());
}

static void fifo(struct block *(*make)(void), double step, size_t limit)
{
    for (int n = events(10, step); n > 0; n--) {
        enqueue(make());
        if (queued > limit)
            free_oldest();
    }
}

static void fifo_full(double now, double step)
{
    (void)now;
    fifo(fine_fifo_full, step, (size_t)(total * 10 / 15));
}

static void fifo_filling(double now, double step)
{
    (void)now;
    fifo(fine_fifo_filling, step, SIZE_MAX);
}

/* The least recently used goes. A hit makes one of the oldest the youngest, so that lives are of all lengths. */
static void lru(struct block *(*make)(void), double rate, double step, size_t limit)
{
    for (int n = events(rate, step); n > 0; n--) {
        for (uint64_t hits = draw() % 3; hits > 0 && queued > 8; hits--) {
            struct block **at = &oldest;
            for (uint64_t skip = draw() % 8; skip > 0; skip--)
                at = &(*at)->next;
            struct block *hit = *at;
            if (hit->next == NULL)
                continue;
            *at = hit->next, queued--;
            enqueue(hit);
        }
        enqueue(make());
        if (queued > limit)
            free_oldest();
    }
}

static void lru_full(double now, double step)
{
    (void)now;
    lru(fine_lru_full, 10, step, (size_t)(total * 10 / 25));
}

static void lru_filling(double now, double step)
{
    (void)now;
    lru(fine_lru_filling, 5, step, SIZE_MAX);
}

/* A queue that is full before a trace begins: what comes takes the place of what nobody has seen, or goes at once. */
enum { REPLACED = 3000 };

static void replaced(double now, double step)
{
    (void)now;
    for (int n = events(200, step); n > 0; n--) {
        struct block *block = fine_replaced();
        if (draw() % 5 == 0) {
            free(block);
            continue;
        }
        enqueue(block);
        free_oldest();
    }
}

static void warm_up(double now, double step)
{
    int kept = now < total / 6 ? events(40, step) : 0;
    for (int n = events(10, step) + kept; n > 0; n--) {
        struct block *block = fine_warm_up();
        if (kept-- > 0)
            enqueue(block);
        else
            schedule(block, now + exponential(2));
    }
}

static void spikes(double now, double step)
{
    static double next = 10;
    int spike = now >= next ? 500 : 0;
    if (spike > 0)
        next = now + exponential(60);
    for (int n = events(5, step) + spike; n > 0; n--)
        schedule(fine_spikes(), now + (n <= spike ? 3 + uniform() : exponential(2)));
}

/* Most live for a second, one in some hundred for minutes. */
static void heavy_tail(double now, double step)
{
    for (int n = events(15, step); n > 0; n--) {
        double life = 1 + uniform();
        while (uniform() < 0.45 && life < total / 8)
            life *= 2;
        schedule(fine_heavy_tail(), now + life);
    }
}

/* What was wanted at most stays and is used again; what exceeds that by much is freed. */
static void pool(double now, double step)
{
    static double wanted = 50;
    (void)now;
    wanted = most(0, wanted + 20 * (uniform() - 0.5) * step + (50 - wanted) * step / 60);
    while (queued < (size_t)wanted)
        enqueue(fine_pool());
    while (queued > (size_t)wanted + 20)
        free_oldest();
}

/* Buffers that are flushed every ten seconds. */
static void buffers(double now, double step)
{
    static double flushed;
    for (int n = events(30, step); n > 0; n--)
        enqueue(fine_log());
    if (now - flushed >= 10)
        free_queue(), flushed = now;
}

static const struct {
    const char *name;
    void (*go)(double now, double step);
} shapes[] = {
    {"even", even},           {"linear", linear},
    {"slow", slow},           {"steps", steps},
    {"batch", batch},         {"connection", connection},
    {"listener", listener},   {"map", map},
    {"thread", thread},       {"sawtooth", sawtooth},
    {"diurnal", diurnal},     {"ramp", ramp},
    {"fifo_full", fifo_full}, {"fifo_filling", fifo_filling},
    {"lru_full", lru_full},   {"lru_filling", lru_filling},
    {"warm_up", warm_up},     {"spikes", spikes},
    {"pool", pool},           {"heavy_tail", heavy_tail},
    {"log", buffers},         {"replaced", replaced},
};

int main(int argc, char **argv)
{
    victim_require(argc > 2, "no shape");
    size_t shape = 0;
    while (shape < sizeof shapes / sizeof *shapes && strcmp(shapes[shape].name, argv[2]) != 0)
        shape++;
    victim_require(shape < sizeof shapes / sizeof *shapes, "no such shape");
    state = 0x9e3779b97f4a7c15u * (victim_number(argc, argv, 3, 1) + 1);
    for (int n = 0; n < 16; n++)
        draw();
    speed = (double)victim_number(argc, argv, 5, 60);
    total = (double)victim_number(argc, argv, 4, 15000) / 1000 * speed;
    for (size_t n = 0; n < REPLACED && shapes[shape].go == replaced; n++)
        enqueue(fine_replaced());
    victim_begin(argc, argv);
    double began = monotonic(), before = 0;
    for (double now; (now = (monotonic() - began) * speed) < total; before = now) {
        pthread_mutex_lock(&one_at_a_time);
        free_due(now);
        shapes[shape].go(now, now - before);
        pthread_mutex_unlock(&one_at_a_time);
        usleep(4000);
    }
    pthread_mutex_lock(&one_at_a_time);
    struct site kept = {"left", left_count, left_bytes, 0, 0, 1};
    report_site(&kept);
    victim_end();
    return 0;
}
