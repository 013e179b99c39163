/* A pool whose functions have C names and throw: loses 7 blocks of 111 bytes, is refused 50 others. */
#include <cstddef>
#include <cstdio>
#include <new>

static char pool[1 << 16];
static std::size_t used;

extern "C" __attribute__((noinline)) void *pool_get(std::size_t size)
{
    if (size > 1000)
        throw std::bad_alloc();
    void *block = pool + used;
    used += (size + 15) / 16 * 16;
    return block;
}

extern "C" __attribute__((noinline)) void pool_put(void *block)
{
    asm volatile("" ::"r"(block) : "memory");
}

int main()
{
    int refused = 0;
    for (int i = 0; i < 100; i++) {
        try {
            void *block = pool_get(i % 2 ? 2000 : 111);
            if (i >= 14)
                pool_put(block);
        } catch (const std::bad_alloc &) {
            refused++;
        }
    }
    std::printf("refused %d\n", refused);
    return 0;
}
