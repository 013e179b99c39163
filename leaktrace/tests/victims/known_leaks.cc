// Leaks of three kinds of stacks, for suppressions to tell apart, beside what the C++ library keeps for itself.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define NOINLINE __attribute__((noinline))

namespace shop {
// A block of its own, lost: 333 bytes.
NOINLINE void forget(size_t size)
{
    volatile char *lost = new char[size];
    lost[0] = 1;
}
} // namespace shop

// 3 blocks of 100 bytes, lost.
extern "C" NOINLINE void leak_blocks(int count)
{
    for (int i = 0; i < count; i++) {
        volatile char *lost = static_cast<char *>(malloc(100));
        lost[0] = 1;
    }
}

struct Link {
    Link *next;
    char rest[40];
};

// A list of 4 links of 48 bytes: its head is definitely lost, the others indirectly.
extern "C" NOINLINE void leak_list(int length)
{
    Link *head = nullptr;
    for (int i = 0; i < length; i++) {
        Link *link = static_cast<Link *>(malloc(sizeof(Link)));
        link->next = head;
        head = link;
    }
}

// Volatile, so that the compiler keeps it.
void *volatile kept;

// 70 bytes that are still reachable, and 70 that are lost, from one stack.
extern "C" NOINLINE void keep_the_last(int count)
{
    for (int i = 0; i < count; i++)
        kept = malloc(70);
}

// The functions leave pointers in the stack and in registers.
extern "C" NOINLINE void wipe()
{
    volatile char old[8192];
    memset(const_cast<char *>(old), 0, sizeof old);
}

int main()
{
    shop::forget(333);
    leak_blocks(3);
    leak_list(4);
    keep_the_last(2);
    wipe();
    puts("done");
    return 0;
}
