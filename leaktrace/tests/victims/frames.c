/* Leaks below every sort of frame that a walk without frame pointers must cross; built at -O2 -fomit-frame-pointer, as a
 * dynamic program, a static-pie one and a stripped one.
 *
 *     frames wait|run [PLUGIN]
 *
 * With a PLUGIN it is loaded after everything else; then the victim says "loaded", waits, and calls it.
 */
#include "victim.h"
#include <alloca.h>
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

/* The deepest call is not the last thing that its caller does. */
#define NOT_A_TAIL() KEEP_FRAME()
#define O2_FN __attribute__((noinline, noclone, used))

enum {
    DEEP_5, DEEP_30, DEEP_120, BEYOND, ALLOCA, ALIGNED, INLINED, SIGNAL, THREAD, COROUTINE, TAIL, CFI, NO_CFI, NO_FRAME,
    CONSTRUCTOR, SITES
};
static struct site sites[SITES] = {
    SITE(leak_deep_5), SITE(leak_deep_30), SITE(leak_deep_120), SITE(leak_beyond), SITE(leak_alloca),
    SITE(leak_aligned), SITE(leak_inlined), SITE(leak_signal), SITE(leak_thread), SITE(leak_coroutine), SITE(leak_tail),
    SITE(leak_cfi), SITE(leak_no_cfi), SITE(leak_no_frame), SITE(leak_constructor),
};

static void *kept[SITES];
static volatile int zero;

/* One block for each site, of a size of its own. */
__attribute__((always_inline)) static inline void leak(int site)
{
    size_t size = 100 + (size_t)site;
    kept[site] = malloc(size);
    victim_require(kept[site] != NULL, "out of memory");
    book(&sites[site], size);
}

#define LEAK_FN(name, site) \
    O2_FN static void name(void) { leak(site); NOT_A_TAIL(); }

LEAK_FN(leak_deep_5, DEEP_5)
LEAK_FN(leak_deep_30, DEEP_30)
LEAK_FN(leak_deep_120, DEEP_120)
LEAK_FN(leak_beyond, BEYOND)
LEAK_FN(leak_signal, SIGNAL)
LEAK_FN(leak_thread, THREAD)
LEAK_FN(leak_coroutine, COROUTINE)
LEAK_FN(leak_tail, TAIL)
LEAK_FN(leak_cfi, CFI)
LEAK_FN(leak_no_cfi, NO_CFI)
LEAK_FN(leak_no_frame, NO_FRAME)

__attribute__((constructor)) O2_FN static void leak_constructor(void)
{
    leak(CONSTRUCTOR);
    NOT_A_TAIL();
}

O2_FN static void descend(int depth, void (*leaf)(void))
{
    if (depth == 1)
        leaf();
    else
        descend(depth - 1, leaf);
    NOT_A_TAIL();
}

/* A frame of variable size: the CFA is found from rbp. */
O2_FN static void leak_alloca(size_t size)
{
    char *room = alloca(size);
    memset(room, 1, size);
    __asm__ volatile("" : : "r"(room) : "memory");
    leak(ALLOCA);
    __asm__ volatile("" : : "r"(room) : "memory");
}

/* Realigned and of variable size: the CFA is a word in the frame. */
O2_FN static void leak_aligned(size_t size)
{
    char aligned[256] __attribute__((aligned(128)));
    char *room = alloca(size);
    __asm__ volatile("" : : "r"(aligned), "r"(room) : "memory");
    leak(ALIGNED);
    __asm__ volatile("" : : "r"(aligned), "r"(room) : "memory");
}

__attribute__((always_inline)) static inline void inlined_leaf(void)
{
    leak(INLINED);
}

O2_FN static void leak_inlined(void)
{
    inlined_leaf();
    NOT_A_TAIL();
}

O2_FN static void on_signal(int number)
{
    (void)number;
    leak_signal();
    NOT_A_TAIL();
}

O2_FN static void through_signal(void)
{
    static char stack[64 << 10];
    stack_t alternate;
    struct sigaction action;
    memset(&alternate, 0, sizeof alternate);
    memset(&action, 0, sizeof action);
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    victim_require(sigaltstack(&alternate, NULL) == 0, "sigaltstack");
    action.sa_handler = on_signal;
    action.sa_flags = SA_ONSTACK;
    victim_require(sigaction(SIGUSR1, &action, NULL) == 0, "sigaction");
    raise(SIGUSR1);
    NOT_A_TAIL();
}

O2_FN static void *in_thread(void *argument)
{
    leak_thread();
    NOT_A_TAIL();
    return argument;
}

O2_FN static void through_thread(void)
{
    pthread_t thread;
    victim_require(pthread_create(&thread, NULL, in_thread, NULL) == 0, "pthread_create");
    pthread_join(thread, NULL);
}

static ucontext_t main_context, coroutine_context;

O2_FN static void in_coroutine(void)
{
    leak_coroutine();
    NOT_A_TAIL();
}

O2_FN static void through_coroutine(void)
{
    static char stack[64 << 10];
    getcontext(&coroutine_context);
    coroutine_context.uc_stack.ss_sp = stack;
    coroutine_context.uc_stack.ss_size = sizeof stack;
    coroutine_context.uc_link = &main_context;
    makecontext(&coroutine_context, in_coroutine, 0);
    swapcontext(&main_context, &coroutine_context);
}

O2_FN static int tail_callee(int number)
{
    leak_tail();
    NOT_A_TAIL();
    return number;
}

/* Jumps, and is gone from the stack. */
O2_FN static int tail_caller(int number)
{
    return tail_callee(number + zero);
}

/* By hand: with CFI and a frame pointer's register in use for something else; without CFI but with a frame pointer; and
 * with neither, where nobody can go on. */
void with_cfi(void (*)(void));
void without_cfi(void (*)(void));
void without_frame(void (*)(void));
__asm__(".text\n"
        ".type with_cfi, @function\n"
        "with_cfi:\n"
        ".cfi_startproc\n"
        "push %rbp\n"
        ".cfi_adjust_cfa_offset 8\n"
        ".cfi_rel_offset rbp, 0\n"
        "mov $0x1234, %ebp\n"
        "sub $0x20, %rsp\n"
        ".cfi_adjust_cfa_offset 0x20\n"
        "call *%rdi\n"
        "add $0x20, %rsp\n"
        ".cfi_adjust_cfa_offset -0x20\n"
        "pop %rbp\n"
        ".cfi_adjust_cfa_offset -8\n"
        ".cfi_restore rbp\n"
        "ret\n"
        ".cfi_endproc\n"
        ".size with_cfi, . - with_cfi\n"
        ".type without_cfi, @function\n"
        "without_cfi:\n"
        "push %rbp\n"
        "mov %rsp, %rbp\n"
        "call *%rdi\n"
        "pop %rbp\n"
        "ret\n"
        ".size without_cfi, . - without_cfi\n"
        ".type without_frame, @function\n"
        "without_frame:\n"
        "push %rbp\n"
        "mov $0x1234, %ebp\n"
        "call *%rdi\n"
        "pop %rbp\n"
        "ret\n"
        ".size without_frame, . - without_frame\n");

#ifndef WITHOUT_PLUGIN
/* Loads a plugin, whose constructor leaks, and calls it once the test has seen it. */
O2_FN static void through_plugin(const char *path)
{
    void *plugin = dlopen(path, RTLD_NOW);
    victim_require(plugin != NULL, "the plugin is not loaded");
    victim_say("loaded\n");
    victim_await();
    void (*enter)(void) = (void (*)(void))dlsym(plugin, "plugin_enter");
    victim_require(enter != NULL, "the plugin has no plugin_enter");
    enter();
    NOT_A_TAIL();
}
#endif

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    descend(5, leak_deep_5);
    descend(30, leak_deep_30);
    descend(120, leak_deep_120);
    descend(300, leak_beyond);
    leak_alloca(100 + (size_t)zero);
    leak_aligned(100 + (size_t)zero);
    leak_inlined();
    through_signal();
    through_thread();
    through_coroutine();
    tail_caller(1);
    with_cfi(leak_cfi);
    without_cfi(leak_no_cfi);
    without_frame(leak_no_frame);
#ifndef WITHOUT_PLUGIN
    if (argc > 2)
        through_plugin(argv[2]);
#endif
    for (int site = 0; site < SITES; site++) {
        /* Before anybody traced, where it waited to be. */
        if (site != CONSTRUCTOR || !victim_waits)
            report_site(&sites[site]);
    }
    victim_end();
    return 0;
}
