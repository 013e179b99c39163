// Walks through every sort of frame that unwinding must cross, between two breakpoint instructions, for the test to
// single-step. Built at -O2 without frame pointers. Prints nothing; its exit status says that it ran to its end.
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#define NOINLINE __attribute__((noinline, noclone))
#define KEEP(p) asm volatile("" : : "r"(p) : "memory")

static volatile int zero;

NOINLINE static void *leaf(size_t n)
{
    void *p = malloc(n);
    KEEP(p);
    return p;
}

NOINLINE static int recurse(int depth)
{
    if (depth == 0) {
        free(leaf(32));
        return zero;
    }
    int r = recurse(depth - 1);
    KEEP(&r);
    return r + 1;
}

// A frame of variable size: CFA from rbp.
NOINLINE static void variable_frame(size_t n)
{
    char *p = static_cast<char *>(alloca(n));
    memset(p, 1, n);
    KEEP(p);
    free(leaf(n));
}

// Realigned, and of variable size: gcc's DRAP, CFA = *(rbp - 8).
NOINLINE static void realigned_frame(size_t n)
{
    alignas(64) char buffer[128];
    char *p = static_cast<char *>(alloca(n));
    KEEP(buffer);
    KEEP(p);
    free(leaf(n));
}

// More than 512 KiB: an offset above 16 bits of words.
NOINLINE static void big_frame(int depth)
{
    char buffer[1 << 20];
    KEEP(buffer);
    free(leaf(48));
    if (depth > 0)
        big_frame(depth - 1);
    KEEP(buffer);
}

NOINLINE static int tail_callee(int n)
{
    free(leaf(static_cast<size_t>(n)));
    return n;
}

NOINLINE static int tail_caller(int n)
{
    return tail_callee(n + zero);
}

// Destructors and a catch below a throw: the C++ runtime walks the same stack meanwhile.
struct Guard {
    std::string held;
    explicit Guard(int n) : held(static_cast<size_t>(40 + n), 'x') {}
    NOINLINE ~Guard() { free(leaf(held.size())); }
};

NOINLINE static void thrower(int depth)
{
    Guard guard(depth);
    if (depth == 0)
        throw std::runtime_error("a message too long for the small string buffer");
    thrower(depth - 1);
    KEEP(&guard);
}

NOINLINE static void exceptions()
{
    try {
        thrower(5);
    } catch (const std::exception &e) {
        KEEP(e.what());
    }
}

NOINLINE static void containers()
{
    std::map<std::string, std::shared_ptr<std::vector<int>>> map;
    for (int i = 0; i < 4; i++)
        map["a key of more than fifteen characters " + std::to_string(i)] =
            std::make_shared<std::vector<int>>(100, i);
    auto by_lambda = [&](int n) { return map.size() + static_cast<size_t>(n); };
    KEEP(by_lambda(3));
}

static int compare(const void *a, const void *b)
{
    free(leaf(16));
    return *static_cast<const int *>(a) - *static_cast<const int *>(b);
}

NOINLINE static void called_back()
{
    int numbers[] = {5, 3, 1, 4};
    qsort(numbers, 4, sizeof *numbers, compare);
    KEEP(numbers);
}

static void on_signal(int)
{
    free(recurse(3) ? leaf(24) : leaf(25));
}

NOINLINE static void signals()
{
    static char stack[64 << 10];
    stack_t alternate = {};
    alternate.ss_sp = stack;
    alternate.ss_size = sizeof stack;
    sigaltstack(&alternate, nullptr);
    struct sigaction action = {};
    action.sa_handler = on_signal;
    sigaction(SIGUSR1, &action, nullptr);
    raise(SIGUSR1);
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR2, &action, nullptr);
    raise(SIGUSR2);
}

static ucontext_t main_context, coroutine_context;

static void coroutine()
{
    recurse(4);
    swapcontext(&coroutine_context, &main_context);
    free(leaf(64));
}

NOINLINE static void coroutines()
{
    static char stack[64 << 10];
    getcontext(&coroutine_context);
    coroutine_context.uc_stack.ss_sp = stack;
    coroutine_context.uc_stack.ss_size = sizeof stack;
    coroutine_context.uc_link = &main_context;
    makecontext(&coroutine_context, coroutine, 0);
    swapcontext(&main_context, &coroutine_context);
    swapcontext(&main_context, &coroutine_context);
}

static void *thread(void *)
{
    recurse(6);
    return nullptr;
}

NOINLINE static void threads()
{
    pthread_t id;
    if (pthread_create(&id, nullptr, thread, nullptr) == 0)
        pthread_join(id, nullptr);
}

// Assembly with CFI that keeps its caller's stack pointer in its own frame, and uses rbp for something else.
extern "C" void assembly_with_cfi(void (*)());
asm(R"(
    .text
    .p2align 4
    .type assembly_with_cfi, @function
assembly_with_cfi:
    .cfi_startproc
    push %rbp
    .cfi_adjust_cfa_offset 8
    .cfi_rel_offset rbp, 0
    mov $0x1234, %ebp
    sub $0x20, %rsp
    .cfi_adjust_cfa_offset 0x20
    call *%rdi
    add $0x20, %rsp
    .cfi_adjust_cfa_offset -0x20
    pop %rbp
    .cfi_adjust_cfa_offset -8
    .cfi_restore rbp
    ret
    .cfi_endproc
    .size assembly_with_cfi, . - assembly_with_cfi
)");

static void from_assembly()
{
    free(leaf(8));
}

static void everything()
{
    recurse(40);
    variable_frame(100 + static_cast<size_t>(zero));
    realigned_frame(200 + static_cast<size_t>(zero));
    big_frame(2);
    tail_caller(70);
    exceptions();
    containers();
    called_back();
    signals();
    coroutines();
    threads();
    assembly_with_cfi(from_assembly);
}

int main(int argc, char **argv)
{
    asm volatile("int3");
    for (int rounds = argc > 1 ? atoi(argv[1]) : 1; rounds > 0; rounds--)
        everything();
    asm volatile("int3");
    return 0;
}
