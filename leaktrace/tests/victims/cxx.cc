// Every operator new and delete of C++, and what the standard library allocates through them.
#include "victim.h"

#include <memory>
#include <new>
#include <string>
#include <vector>

static constexpr int ROUNDS = 16;

enum { NEW, ARRAY, NOTHROW, ALIGNED, ALIGNED_ARRAY, VECTOR, STRING, THROWING, SITES };
static site sites[SITES] = {
    SITE(leak_new),     SITE(leak_new_array), SITE(leak_nothrow), SITE(leak_aligned), SITE(leak_aligned_array),
    SITE(leak_vector),  SITE(leak_string),    SITE_OUTSTANDING_ONLY(leak_around_throw),
};

struct Small {
    char bytes[40];
};
struct alignas(64) Aligned {
    char bytes[128];
};

static void *kept[SITES][ROUNDS];
static volatile size_t absurd = size_t(1) << 62;

extern "C" {
SITE_FN static Small *leak_new()
{
    auto *p = new Small;
    KEEP_FRAME();
    return p;
}

SITE_FN static char *leak_new_array(size_t n)
{
    auto *p = new char[n];
    KEEP_FRAME();
    return p;
}

SITE_FN static Small *leak_nothrow()
{
    auto *p = new (std::nothrow) Small;
    KEEP_FRAME();
    return p;
}

SITE_FN static Aligned *leak_aligned()
{
    auto *p = new Aligned;
    KEEP_FRAME();
    return p;
}

SITE_FN static Aligned *leak_aligned_array(size_t n)
{
    auto *p = new Aligned[n];
    KEEP_FRAME();
    return p;
}

// A vector's buffer is exactly what was reserved; the vector itself lives on in the caller.
SITE_FN static void leak_vector(std::vector<int> *v, size_t n)
{
    v->reserve(n);
    KEEP_FRAME();
}

SITE_FN static void leak_string(std::string *s, size_t n)
{
    s->reserve(n);
    KEEP_FRAME();
}

// An operator new that throws leaves no block; what is allocated before and after it in the same frame counts.
SITE_FN static char *leak_around_throw(size_t n)
{
    char *p = nullptr;
#ifdef NO_THROW
    p = new char[n];
#else
    try {
        auto *never = static_cast<char *>(::operator new(absurd));
        kept[0][0] = never;
        victim_fail("operator new of 2^62 bytes succeeded");
    } catch (const std::bad_alloc &) {
        p = new char[n];
    }
    victim_require(new (std::nothrow) char[absurd] == nullptr, "nothrow new of 2^62 bytes succeeded");
#endif
    KEEP_FRAME();
    return p;
}
}

int main(int argc, char **argv)
{
    // The containers' own memory is static, so that only their buffers count.
    static std::vector<int> vectors[ROUNDS];
    static std::string strings[ROUNDS];
    victim_begin(argc, argv);
    for (int i = 0; i < ROUNDS; i++) {
        const size_t n = size_t(i) + 1;
        const bool keep = i % 2 == 0;

        auto *small = leak_new();
        book(&sites[NEW], sizeof(Small));
        auto *array = leak_new_array(30 * n);
        book(&sites[ARRAY], 30 * n);
        auto *nothrow = leak_nothrow();
        book(&sites[NOTHROW], sizeof(Small));
        auto *aligned = leak_aligned();
        book(&sites[ALIGNED], sizeof(Aligned));
        auto *aligned_array = leak_aligned_array(n);
        book(&sites[ALIGNED_ARRAY], n * sizeof(Aligned));
        if (keep) {
            kept[NEW][i] = small;
            kept[ARRAY][i] = array;
            kept[NOTHROW][i] = nothrow;
            kept[ALIGNED][i] = aligned;
            kept[ALIGNED_ARRAY][i] = aligned_array;
        } else {
            delete small;
            unbook(&sites[NEW], sizeof(Small));
            delete[] array;
            unbook(&sites[ARRAY], 30 * n);
            ::operator delete(nothrow, sizeof(Small));
            unbook(&sites[NOTHROW], sizeof(Small));
            delete aligned;
            unbook(&sites[ALIGNED], sizeof(Aligned));
            delete[] aligned_array;
            unbook(&sites[ALIGNED_ARRAY], n * sizeof(Aligned));
        }
        delete static_cast<Small *>(nullptr);

        leak_vector(&vectors[i], 10 * n);
        book(&sites[VECTOR], 10 * n * sizeof(int));
        leak_string(&strings[i], 100 * n);
        // libstdc++ asks for the capacity and the terminator.
        book(&sites[STRING], strings[i].capacity() + 1);
        if (!keep) {
            unbook(&sites[STRING], strings[i].capacity() + 1);
            std::string().swap(strings[i]);
        }
        kept[THROWING][i] = leak_around_throw(12 * n);
        book(&sites[THROWING], 12 * n);
    }
    for (const auto &site : sites)
        report_site(&site);
    report_fact("thrown", ROUNDS);
    victim_end();
    // Not through the destructors: the accounting above stands to the end.
    _exit(0);
}
