/* A process whose threads wait in all the ways in which a copy may be made with them, and that check everything that a copy might
 * change: what their system calls return, all registers, signals, children, and that nobody runs in their place.
 *
 * Arguments: words of what it does.
 *   sleeps polls events futex reads
 *             a thread that waits in nanosleep, poll, epoll_wait, futex or read, again and again; calls: all of them
 *   hides     the first thread does not wait for lines, but looks for them again and again
 *   forks     a thread that forks children, some of which execute a program, waits for them, and counts SIGCHLD
 *   threads   a thread that creates others, which end
 *   spins     a thread that never leaves user mode, with known values in its vector registers
 *   SIZE      so many MiB of memory, each page of which is written
 * Prints "ready ARRAY WORDS KEPT WIPED" once all have begun, addresses in hexadecimal digits:
 *   ARRAY     words that a thread increments one after the other, so that they never differ by more than one
 *   KEPT      a page that children do not get; WIPED: one that they get empty
 * Lines of standard input: ping -> "pong", once each thread has gone on twice, or what was wrong. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WORDS = 1 << 16, MOST = 16 };

struct call {
    long number, arguments[6], result;
    unsigned long kept[6];      /* rbx, rbp, r12 to r15 */
    unsigned long passed[6];    /* rdi, rsi, rdx, r10, r8, r9 */
    unsigned char vectors[16][32] __attribute__((aligned(32)));
};
extern unsigned char patterns[16][32];
void call_with_avx(struct call *), call_with_sse(struct call *);

/* Offsets in struct call: arguments 8, result 56, kept 64, passed 112, vectors 160. */
__asm__(
    ".macro each what:vararg\n"
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n\\what\n.endr\n.endm\n"
    ".macro body load, store, register\n"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; push %rdi\n"
    "lea patterns(%rip), %rax\n"
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
    "\\load 32*\\n(%rax), %\\register\\n\n"
    ".endr\n"
    "movabs $0x1111222233334440, %rbx; lea 1(%rbx), %rbp; lea 2(%rbx), %r12\n"
    "lea 3(%rbx), %r13; lea 4(%rbx), %r14; lea 5(%rbx), %r15\n"
    "mov (%rdi), %rax; mov 16(%rdi), %rsi; mov 24(%rdi), %rdx; mov 32(%rdi), %r10; mov 40(%rdi), %r8; mov 48(%rdi), %r9\n"
    "mov 8(%rdi), %rdi\n"
    "syscall\n"
    "mov (%rsp), %rcx\n"
    "mov %rax, 56(%rcx)\n"
    "mov %rbx, 64(%rcx); mov %rbp, 72(%rcx); mov %r12, 80(%rcx); mov %r13, 88(%rcx); mov %r14, 96(%rcx); mov %r15, 104(%rcx)\n"
    "mov %rdi, 112(%rcx); mov %rsi, 120(%rcx); mov %rdx, 128(%rcx); mov %r10, 136(%rcx); mov %r8, 144(%rcx); mov %r9, 152(%rcx)\n"
    ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
    "\\store %\\register\\n, 160+32*\\n(%rcx)\n"
    ".endr\n"
    "pop %rdi; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    ".endm\n"
    ".text\n"
    "call_with_avx: body vmovdqu, vmovdqu, ymm\n vzeroupper\n ret\n"
    "call_with_sse: body movdqu, movdqu, xmm\n ret\n");

unsigned char patterns[16][32];
static unsigned long array[WORDS];
static atomic_long steps[MOST];
static atomic_int workers, sigchlds, ended;
static _Atomic(const char *) wrong;
static _Atomic long wrong_value;
static pid_t self;
static int has_avx;
/* In memory that a copy shares: a copy that runs counts here. */
static atomic_long *foreign;

static void fail(const char *what, long value)
{
    wrong_value = value;
    wrong = what;
}

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    struct call call = { .number = number, .arguments = { a, b, c, d, e, f } };
    (has_avx ? call_with_avx : call_with_sse)(&call);
    for (int i = 0; i < 6; i++) {
        if (call.kept[i] != 0x1111222233334440 + i)
            fail("a register that calls keep", i);
        if (call.passed[i] != (unsigned long)call.arguments[i])
            fail("an argument's register", i);
    }
    for (int i = 0; i < 16; i++)
        if (memcmp(call.vectors[i], patterns[i], has_avx ? 32 : 16) != 0)
            fail("a vector register", i);
    if (syscall(SYS_getpid) != self)
        atomic_fetch_add(foreign, 1);
    return call.result;
}

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000 + time.tv_nsec;
}

static const struct timespec tick = { .tv_nsec = 1000000 };
static int numbers[2];

static void sleeps(void)
{
    long begun = now(), result = call(SYS_nanosleep, (long)&tick, 0, 0, 0, 0, 0);
    /* A wait begins anew with its whole time if the tracer is killed, but never ends early. */
    if (result != 0 || now() - begun < tick.tv_nsec)
        fail("nanosleep", result);
}

static void polls(void)
{
    long result = call(SYS_poll, 0, 0, 1, 0, 0, 0);
    if (result != 0)
        fail("poll", result);
}

static void waits_for_events(void)
{
    static int set;
    struct epoll_event event;
    if (set == 0)
        set = epoll_create1(0);
    long result = call(SYS_epoll_wait, set, (long)&event, 1, 1, 0, 0);
    /* signal(7): it is interrupted by every stop. */
    if (result != 0 && result != -EINTR)
        fail("epoll_wait", result);
}

static void waits_for_futex(void)
{
    static int word;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += tick.tv_nsec;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    long result = call(SYS_futex, (long)&word, FUTEX_WAIT_BITSET_PRIVATE, 0, (long)&until, 0, FUTEX_BITSET_MATCH_ANY);
    if (result != -ETIMEDOUT)
        fail("futex", result);
}

static void reads(void)
{
    static unsigned expected;
    unsigned number;
    long result = call(SYS_read, numbers[0], (long)&number, sizeof number, 0, 0, 0);
    if (result != sizeof number || number != expected++)
        fail("read", result);
}

static void writes(void)
{
    static unsigned number;
    long result = call(SYS_write, numbers[1], (long)&number, sizeof number, 0, 0, 0);
    if (result != sizeof number)
        fail("write", result);
    number++;
    usleep(500);
}

static void increments(void)
{
    for (int i = 0; i < WORDS; i++)
        ((volatile unsigned long *)array)[i]++;
}

static void forks(void)
{
    static int count;
    pid_t child = fork();
    if (child == 0) {
        if (count % 4 == 3)
            execl("/bin/sh", "sh", "-c", "exit 7", NULL);
        _exit(7);
    }
    int status = 0;
    pid_t waited = count % 2 ? waitpid(-1, &status, 0) : waitpid(child, &status, 0);
    if (waited != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
        fail("waitpid", waited);
    if (waitpid(-1, &status, WNOHANG | __WALL) != -1 || errno != ECHILD)
        fail("a child that is not ours", errno);
    count++;
    /* Not queued, but each has been reaped before the next. Another thread may handle it, a little later. */
    while (sigchlds < count)
        usleep(10);
    if (sigchlds != count)
        fail("SIGCHLD", sigchlds - count);
}

static void *end(void *nothing)
{
    atomic_fetch_add(&ended, 1);
    return nothing;
}

static void creates(void)
{
    static int created;
    pthread_t thread;
    if (pthread_create(&thread, NULL, end, NULL) != 0 || pthread_join(thread, NULL) != 0)
        fail("pthread_create", errno);
    if (ended != ++created)
        fail("a thread", ended - created);
}

static void spins(void)
{
    static const unsigned long values[2] = { 0x2222333344445555, 0x6666777788889999 };
    unsigned long seen[2], kept;
    __asm__ volatile("movdqu %2, %%xmm7\n"
                     "movabs $0x1badb002deadbeef, %%rbx\n"
                     "mov $10000000, %%ecx\n"
                     "1: dec %%ecx\n"
                     "jnz 1b\n"
                     "movdqu %%xmm7, %0\n"
                     "mov %%rbx, %1\n"
                     : "=m"(seen), "=m"(kept)
                     : "m"(values)
                     : "rbx", "rcx", "xmm7", "memory");
    if (seen[0] != values[0] || seen[1] != values[1] || kept != 0x1badb002deadbeef)
        fail("a register of a thread that spins", kept);
}

/* As most threads, each has been deeper on its stack than where it waits: what a copy borrows there is in memory, also on processors whose
 * vector registers take some kilobytes. */
__attribute__((noinline)) static void go_deep(void)
{
    volatile char deep[32 << 10];
    for (size_t at = 0; at < sizeof deep; at += 1024)
        deep[at] = 0;
}

static void *work(void *step)
{
    go_deep();
    int number = atomic_fetch_add(&workers, 1);
    for (;;) {
        ((void (*)(void))step)();
        atomic_fetch_add(&steps[number], 1);
    }
    return NULL;
}

static void handle(int signal)
{
    (void)signal;
    atomic_fetch_add(&sigchlds, 1);
}

static int started;

static void start(void (*step)(void))
{
    pthread_t thread;
    sigset_t all, own;
    started++;
    /* A handler would interrupt nanosleep and others. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &own);
    if (pthread_create(&thread, NULL, work, (void *)step) != 0)
        exit(1);
    pthread_sigmask(SIG_SETMASK, &own, NULL);
}

static const struct { const char *name; void (*step)(void); } calls[] = {
    { "sleeps", sleeps }, { "polls", polls }, { "events", waits_for_events }, { "futex", waits_for_futex }, { "reads", reads },
};

int main(int argc, char **argv)
{
    char line[64];
    go_deep();
    self = getpid();
    has_avx = __builtin_cpu_supports("avx");
    for (int i = 0; i < 16 * 32; i++)
        ((unsigned char *)patterns)[i] = i * 7 + 1;
    foreign = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *kept = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *wiped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *kept = *wiped = 1;
    madvise(kept, 4096, MADV_DONTFORK);
    madvise(wiped, 4096, MADV_WIPEONFORK);
    struct sigaction action = { .sa_handler = handle, .sa_flags = SA_RESTART };
    sigaction(SIGCHLD, &action, NULL);
    if (pipe(numbers) != 0)
        return 1;
    start(increments);
    for (int i = 1; i < argc; i++) {
        int all = strcmp(argv[i], "calls") == 0, is_any = all;
        for (size_t j = 0; j < sizeof calls / sizeof *calls; j++)
            if (all || strcmp(argv[i], calls[j].name) == 0) {
                start(calls[j].step);
                is_any = 1;
            }
        if (is_any) {
            if (all || strcmp(argv[i], "reads") == 0)
                start(writes);
        } else if (strcmp(argv[i], "hides") == 0) {
            fcntl(0, F_SETFL, O_NONBLOCK);
        } else if (strcmp(argv[i], "forks") == 0) {
            start(forks);
        } else if (strcmp(argv[i], "threads") == 0) {
            start(creates);
        } else if (strcmp(argv[i], "spins") == 0) {
            start(spins);
        } else {
            size_t size = (size_t)atol(argv[i]) << 20;
            char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            madvise(memory, size, MADV_NOHUGEPAGE);
            for (size_t at = 0; at < size; at += 4096)
                memory[at] = 1;
        }
    }
    while (workers != started)
        usleep(1000);
    printf("ready %lx %x %lx %lx\n", (long)array, WORDS, (long)kept, (long)wiped);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) != NULL || errno == EAGAIN) {
        if (ferror(stdin)) {
            clearerr(stdin);
            errno = 0;
            continue;
        }
        long before[MOST];
        for (int i = 0; i < started; i++)
            before[i] = steps[i];
        for (int i = 0; i < started; i++)
            while (steps[i] < before[i] + 2 && wrong == NULL)
                usleep(100);
        if (*foreign != 0)
            fail("a copy that runs", *foreign);
        if (wrong != NULL)
            printf("%s: %ld\n", wrong, wrong_value);
        else
            printf("pong\n");
        fflush(stdout);
    }
    return 0;
}
