// What grows and what does not: one shape of use of memory in each process, in time that runs faster.
//
// usage: growth SHAPE SEED SECONDS SPEED
// Works for SECONDS of the clock, each of which stands for SPEED seconds. The site of a shape that leaks is a function leak_SHAPE,
// of one that does not fine_SHAPE. At the end it prints "left BYTES COUNT", what the shape has lost hold of: each such block is kept
// in a list, so that it can be reached, as in most leaks of long-running programs.
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SITE __attribute__((noinline))

struct block {
  struct block *next;
  double due; // when it is freed
  size_t size;
};

static double speed, seconds;
static uint64_t state;
static struct block *left;
static size_t left_bytes, left_count;

static double monotonic(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec * 1e-9;
}

static uint64_t draw(void) {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}
static double uniform(void) { return (draw() >> 11) * 0x1p-53; }
static double exponential(double mean) { return -mean * log(1 - uniform()); }
static size_t size(void) { return sizeof(struct block) + 8 + draw() % 200; }

// Blocks by the time at which they are freed: a heap.
static struct block **heap;
static size_t scheduled, room;

static void schedule(struct block *block, double due) {
  if (scheduled == room) heap = realloc(heap, (room = room ? 2 * room : 1 << 16) * sizeof *heap);
  block->due = due;
  size_t at = scheduled++;
  while (at && heap[(at - 1) / 2]->due > due) heap[at] = heap[(at - 1) / 2], at = (at - 1) / 2;
  heap[at] = block;
}

static void free_due(double now) {
  while (scheduled && heap[0]->due <= now) {
    free(heap[0]);
    struct block *last = heap[--scheduled];
    size_t at = 0;
    for (;;) {
      size_t child = 2 * at + 1;
      if (child >= scheduled) break;
      if (child + 1 < scheduled && heap[child + 1]->due < heap[child]->due) child++;
      if (heap[child]->due >= last->due) break;
      heap[at] = heap[child], at = child;
    }
    heap[at] = last;
  }
}

static void lose(struct block *block) {
  block->next = left, left = block;
  left_bytes += block->size, left_count++;
}

// How many events of a rate there are in a step: chance, as in real load.
static int events(double rate, double step) {
  double expected = rate * step;
  int count = 0;
  for (double sum = exponential(1); sum < expected; sum += exponential(1)) count++;
  return count;
}

// A queue of blocks, the oldest first.
static struct block *first, **end = &first;
static size_t queued;
static void queue(struct block *block) { block->next = NULL, *end = block, end = &block->next, queued++; }
static struct block *dequeue(void) {
  struct block *block = first;
  first = block->next, queued--;
  if (!first) end = &first;
  return block;
}

static struct block *made(struct block *block, size_t bytes) { return memset(block, 1, bytes), block->size = bytes, block; }
#define MAKER(name) static SITE struct block *name(void) { size_t bytes = size(); return made(malloc(bytes), bytes); }
MAKER(leak_linear) MAKER(leak_slow) MAKER(leak_steps) MAKER(leak_batch) MAKER(leak_connection) MAKER(leak_listener)
MAKER(leak_map) MAKER(leak_thread)
MAKER(fine_sawtooth) MAKER(fine_diurnal) MAKER(fine_ramp) MAKER(fine_fifo_full) MAKER(fine_fifo_filling) MAKER(fine_lru_full)
MAKER(fine_lru_filling) MAKER(fine_warm_up) MAKER(fine_spikes) MAKER(fine_heavy_tail) MAKER(fine_pool) MAKER(fine_log)

// Each shape: `now` and `step` in its own seconds, `total` of them in all.
static void linear(double now, double step, double total) {
  for (int n = events(20, step); n--;) {
    struct block *block = leak_linear();
    uniform() < 0.05 ? lose(block) : schedule(block, now + exponential(2));
  }
}
static void slow(double now, double step, double total) {
  static double next;
  for (int n = events(100, step); n--;) {
    struct block *block = leak_slow();
    if (now >= next) lose(block), next = now + 5;
    else schedule(block, now + exponential(1));
  }
}
static void steps(double now, double step, double total) {
  static double next = 20;
  int losing = now >= next ? 20 : 0;
  if (losing) next = now + 40 + 20 * uniform();
  for (int n = events(20, step) + losing; n--;) {
    struct block *block = leak_steps();
    losing-- > 0 ? lose(block) : schedule(block, now + exponential(2));
  }
}
static void batch(double now, double step, double total) {
  static double next = 5;
  if (now < next) return;
  for (int n = 0; n < 200; n++) {
    struct block *block = leak_batch();
    n < 3 ? lose(block) : schedule(block, now + 4 * uniform());
  }
  next = now + 15 + 15 * uniform();
}
static void connection(double now, double step, double total) {
  for (int n = events(2, step); n--;) {
    double closed = now + 5 + 25 * uniform();
    int forgets = uniform() < 0.1;
    for (int part = 0; part < 3; part++) {
      struct block *block = leak_connection();
      part == 1 && forgets ? lose(block) : schedule(block, closed);
    }
  }
}
static void listener(double now, double step, double total) {
  for (int n = events(4, step); n--;) {
    struct block *block = leak_listener();
    uniform() < 0.3 ? lose(block) : schedule(block, now + exponential(5));
  }
}
static void map(double now, double step, double total) {
  for (int n = events(5, step); n--;) {
    struct block *block = leak_map();
    uniform() < 0.4 ? lose(block) : schedule(block, now + 2 + exponential(3));
  }
}
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static double moment;
static int is_over;
static void *work(void *leaks) {
  for (;;) {
    pthread_mutex_lock(&one_at_a_time);
    int over = is_over;
    for (int n = over ? 0 : events(5, 0.004 * speed); n--;) {
      struct block *block = leak_thread();
      leaks && uniform() < 0.1 ? lose(block) : schedule(block, moment + exponential(2));
    }
    pthread_mutex_unlock(&one_at_a_time);
    if (over) return NULL;
    usleep(4000);
  }
}
static void thread(double now, double step, double total) {
  static pthread_t threads[4];
  static int started;
  moment = now;
  for (; started < 4; started++) pthread_create(&threads[started], NULL, work, started == 2 ? threads : NULL);
}

static void sawtooth(double now, double step, double total) {
  static double next = 45;
  for (int n = events(20, step); n--;) queue(fine_sawtooth());
  if (now >= next) {
    while (queued) free(dequeue());
    next = now + 30 + 30 * uniform();
  }
}
static void diurnal(double now, double step, double total) {
  double load = 25 + 20 * sin(2 * M_PI * now / (total / 3));
  for (int n = events(load, step); n--;) schedule(fine_diurnal(), now + exponential(4));
}
static void ramp(double now, double step, double total) {
  for (int n = events(5 + 40 * now / total, step); n--;) schedule(fine_ramp(), now + 1 + 4 * uniform());
}
static void cache(struct block *(*make)(void), double rate, size_t most, double step) {
  for (int n = events(rate, step); n--;) {
    queue(make());
    if (queued > most) free(dequeue());
  }
}
static void fifo_full(double now, double step, double total) { cache(fine_fifo_full, 10, total * 10 / 15, step); }
static void fifo_filling(double now, double step, double total) { cache(fine_fifo_filling, 10, 1e9, step); }
// The least recently used goes: a hit moves an entry to the end, so that lives are of all lengths.
static void lru(struct block *(*make)(void), double rate, size_t most, double step) {
  for (int n = events(rate, step); n--;) {
    for (int hits = draw() % 3; hits-- && queued > 8;) {
      struct block **at = &first;
      for (int skip = draw() % 8; skip--;) at = &(*at)->next;
      struct block *hit = *at;
      if (!hit->next) continue;
      *at = hit->next, queued--, queue(hit);
    }
    queue(make());
    if (queued > most) free(dequeue());
  }
}
static void lru_full(double now, double step, double total) { lru(fine_lru_full, 10, total * 10 / 25, step); }
static void lru_filling(double now, double step, double total) { lru(fine_lru_filling, 5, 1e9, step); }
static void warm_up(double now, double step, double total) {
  int kept = now < total / 6 ? events(40, step) : 0;
  for (int n = events(10, step) + kept; n--;) {
    struct block *block = fine_warm_up();
    kept-- > 0 ? queue(block) : schedule(block, now + exponential(2));
  }
}
static void spikes(double now, double step, double total) {
  static double next = 10;
  int spike = now >= next ? 500 : 0;
  if (spike) next = now + exponential(60);
  for (int n = events(5, step) + spike; n--;) schedule(fine_spikes(), now + (n < spike ? 3 + uniform() : exponential(2)));
}
static void heavy_tail(double now, double step, double total) {
  // Pareto's: most live for a second, one in a thousand for minutes.
  for (int n = events(15, step); n--;) schedule(fine_heavy_tail(), now + fmin(pow(1 - uniform(), -1 / 1.2), total / 6));
}
static void pool(double now, double step, double total) {
  // What was wanted at most is kept and used again; what is made for more than that is freed by the idle timer.
  static double wanted = 50;
  wanted = fmax(0, wanted + 20 * (uniform() - 0.5) * step + (50 - wanted) * step / 60);
  while (queued < (size_t)wanted) queue(fine_pool());
  while (queued > (size_t)wanted + 20) free(dequeue());
}
static void logs(double now, double step, double total) {
  static double flushed;
  for (int n = events(30, step); n--;) queue(fine_log());
  if (now - flushed >= 10) {
    while (queued) free(dequeue());
    flushed = now;
  }
}

static const struct { const char *name; void (*go)(double now, double step, double total); } shapes[] = {
  {"linear", linear}, {"slow", slow}, {"steps", steps}, {"batch", batch}, {"connection", connection}, {"listener", listener},
  {"map", map}, {"thread", thread}, {"sawtooth", sawtooth}, {"diurnal", diurnal}, {"ramp", ramp}, {"fifo_full", fifo_full},
  {"fifo_filling", fifo_filling}, {"lru_full", lru_full}, {"lru_filling", lru_filling}, {"warm_up", warm_up},
  {"spikes", spikes}, {"heavy_tail", heavy_tail}, {"pool", pool}, {"log", logs},
};

int main(int argc, char **argv) {
  if (argc != 5) return fprintf(stderr, "usage: growth SHAPE SEED SECONDS SPEED\n"), 2;
  state = 0x9e3779b97f4a7c15 * (strtoull(argv[2], NULL, 10) + 1);
  seconds = atof(argv[3]), speed = atof(argv[4]);
  for (int n = 16; n--;) draw();
  for (size_t n = 0; n < sizeof shapes / sizeof *shapes; n++) {
    if (strcmp(shapes[n].name, argv[1])) continue;
    printf("ready\n"), fflush(stdout);
    if (getchar() == EOF) return 1;
    double began = monotonic(), before = 0;
    for (double now; (now = (monotonic() - began) * speed) < seconds * speed; before = now) {
      pthread_mutex_lock(&one_at_a_time);
      free_due(now);
      shapes[n].go(now, now - before, seconds * speed);
      pthread_mutex_unlock(&one_at_a_time);
      usleep(4000);
    }
    printf("left %zu %zu\n", left_bytes, left_count), fflush(stdout);
    // Held as it is until it is looked at.
    if (getchar() == EOF) return 1;
    is_over = 1;
    return 0;
  }
  return fprintf(stderr, "growth: no shape %s\n", argv[1]), 2;
}
