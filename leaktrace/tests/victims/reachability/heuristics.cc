// Blocks that C++ keeps by a pointer into their middle: Valgrind's four leak-check heuristics, each with a near miss.
//
// Without heuristics each is possibly lost. What a heuristic takes as kept is as good as reached by its start: what the
// block points at is reachable too.
#include "expect.h"

static constexpr const char *KEPT = POSSIBLE " heuristics=" REACHABLE;

struct Header {
    size_t length, capacity, references;
};

// The old std::string of GCC, as its copy-on-write ABI lays it out; programs hold a pointer behind the header.
static void *volatile old_string, *volatile miscounted_string;

SITE_FN static void keep_old_strings()
{
    auto *header = static_cast<Header *>(BLOCK(24 + 1000 + 1, KEPT));
    *header = {500, 1000, 0};
    old_string = header + 1;
    header = static_cast<Header *>(BLOCK(24 + 1010 + 1, POSSIBLE));
    *header = {500, 1011, 0};
    miscounted_string = header + 1;
}

// A block that begins with the length of what follows, as SQLite and others have it.
static void *volatile counted, *volatile miscounted;

SITE_FN static void keep_counted()
{
    auto *length = static_cast<uint64_t *>(BLOCK(2003, KEPT));
    *length = 2003 - 8;
    length[8] = reinterpret_cast<uintptr_t>(BLOCK(2005, KEPT));
    counted = length + 1;
    length = static_cast<uint64_t *>(BLOCK(2011, POSSIBLE));
    *length = 2011;
    miscounted = length + 1;
}

// What new[] gives for a class with a destructor: a count, and then the elements.
struct WithDestructor {
    char bytes[7];
    ~WithDestructor()
    {
        KEEP_FRAME();
    }
};
static WithDestructor *volatile elements, *volatile not_the_first;

SITE_FN static void keep_arrays()
{
    EXPECT(8 + 301 * 7, KEPT);
    elements = new WithDestructor[301];
    EXPECT(8 + 303 * 7, POSSIBLE);
    not_the_first = new WithDestructor[303] + 1;
}

// A pointer to a base that is not the first.
struct First {
    char bytes[3001];
    virtual ~First() = default;
};
template <int SIZE> struct Second {
    char bytes[SIZE];
    virtual ~Second() = default;
};
struct Plain {
    char bytes[24];
};
struct Both : First, Second<8> {};
struct WithPlain : First, Second<16>, Plain {};
static Second<8> *volatile second;
static Plain *volatile plain;

SITE_FN static void keep_by_a_second_base()
{
    EXPECT(sizeof(Both), KEPT);
    second = new Both;
    EXPECT(sizeof(WithPlain), POSSIBLE);
    auto *block = new WithPlain;
    memset(block->Plain::bytes, 0, sizeof block->Plain::bytes);
    plain = block;
}

// What a heuristic would keep, held by a block that is itself possibly lost.
static void *volatile possible_holder;

SITE_FN static void keep_by_a_possibly_lost_block()
{
    auto *holder = static_cast<void **>(BLOCK(4001, POSSIBLE));
    auto *length = static_cast<uint64_t *>(BLOCK(4003, POSSIBLE));
    *length = 4003 - 8;
    *holder = length + 1;
    possible_holder = holder + 1;
}

// A heuristic says nothing of blocks that nobody holds.
SITE_FN static void lose_counted()
{
    auto *leader = static_cast<void **>(BLOCK(4011, LOST));
    auto *length = static_cast<uint64_t *>(BLOCK(4013, INDIRECT));
    *length = 4013 - 8;
    *leader = length + 1;
    forget(leader);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(keep_old_strings);
    CASE(keep_counted);
    CASE(keep_arrays);
    CASE(keep_by_a_second_base);
    CASE(keep_by_a_possibly_lost_block);
    CASE(lose_counted);
    judged();
    return 0;
}
