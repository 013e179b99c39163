/* Calls of the allocator that never return.
 *
 *     abandoned wait|run jump|die
 *
 * A seccomp filter turns the mmap of one magic length into SIGSYS, which so arrives inside malloc, calloc, realloc and
 * posix_memalign at a known place. `jump` leaves the call by siglongjmp from the handler (single-threaded: no lock is
 * held); `die` ends the thread there and then by the raw system call. What was to be allocated never was, a block
 * that was to be reallocated lives on, and the allocations that follow must be booked as ever.
 */
#include "victim.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* mmap is asked for this or a few pages more. */
#define MAGIC ((size_t)0x7654000)
#define MAGIC_END (MAGIC + 0x10000)
#define ROUNDS 10
#define DYING 6

enum { BEFORE, SHALLOW, DEEP, ORIGIN, ABANDONED, SITES };
static struct site sites[SITES] = {
    SITE(leak_before), SITE(leak_shallow), SITE(leak_deep), SITE(leak_origin), SITE(abandon),
};

static sigjmp_buf out;
static int dying;
static unsigned long abandoned;
static void *kept[4096];
static size_t n_kept;
static void *origins[ROUNDS * 4];
static size_t n_origins;

static void trapped(int signal)
{
    (void)signal;
    abandoned++;
    if (dying)
        syscall(SYS_exit, 0);
    siglongjmp(out, 1);
}

static void install(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, MAGIC, 0, 2),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, MAGIC_END, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = trapped;
    action.sa_flags = SA_NODEFER;
    victim_require(sigaction(SIGSYS, &action, NULL) == 0, "sigaction");
    victim_require(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no_new_privs");
    victim_require(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "no seccomp filter");
}

SITE_FN static void *leak_before(size_t size)
{
    void *p = malloc(size);
    book(&sites[BEFORE], size);
    return kept[n_kept++] = p;
}

SITE_FN static void *leak_shallow(size_t size)
{
    void *p = malloc(size);
    book(&sites[SHALLOW], size);
    return kept[n_kept++] = p;
}

/* Allocates far below the stack pointer of the call that was abandoned, whose place on the stack is used again. */
SITE_FN static void *leak_deep(size_t size)
{
    char room[4096];
    memset(room, 1, sizeof room);
    __asm__ volatile("" : : "r"(room) : "memory");
    void *p = malloc(size);
    book(&sites[DEEP], size);
    return kept[n_kept++] = p;
}

SITE_FN static void *leak_origin(size_t size)
{
    void *p = malloc(size);
    book(&sites[ORIGIN], size);
    return origins[n_origins++] = p;
}

/* Enters the allocator by one of its functions and does not come back. */
SITE_FN static void abandon(int how, void *block)
{
    void *p = NULL;
    switch (how % 4) {
    case 0:
        p = malloc(MAGIC);
        break;
    case 1:
        p = calloc(1, MAGIC);
        break;
    case 2:
        p = realloc(block, MAGIC);
        break;
    default:
        (void)!posix_memalign(&p, 64, MAGIC);
    }
    kept[0] = p;
    victim_fail("the allocator did not ask mmap for the magic length");
}

static void *die(void *argument)
{
    size_t i = (size_t)argument;
    leak_shallow(40 + i);
    abandon((int)i, leak_origin(30 + i));
    return NULL;
}

int main(int argc, char **argv)
{
    victim_require(argc > 2, "jump or die?");
    dying = strcmp(argv[2], "die") == 0;
    install();
    victim_begin(argc, argv);
    n_kept = 1;
    for (size_t i = 0; i < (dying ? DYING : ROUNDS * 4); i++) {
        leak_before(20 + i);
        if (dying) {
            pthread_t thread;
            victim_require(pthread_create(&thread, NULL, die, (void *)i) == 0, "pthread_create");
            pthread_join(thread, NULL);
        } else {
            void *block = leak_origin(30 + i);
            if (sigsetjmp(out, 1) == 0)
                abandon((int)i, block);
            /* In turn: first seen again deeper, or at the same depth. */
            if (i % 8 < 4)
                leak_deep(50 + i);
            leak_shallow(40 + i);
        }
    }
    /* The blocks that were to be reallocated are still there to be freed. */
    for (size_t i = 0; i < n_origins; i += 2) {
        free(origins[i]);
        unbook(&sites[ORIGIN], 30 + i);
    }
    for (int s = 0; s < SITES; s++)
        report_site(&sites[s]);
    report_fact("abandoned", abandoned);
    victim_end();
    return 0;
}
