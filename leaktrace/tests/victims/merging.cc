// Different leaks by way of the same functions of the C++ library, at -O2 without frame pointers: each stays a site.
#include "victim.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

enum { STRING_A, STRING_B, VECTOR_A, VECTOR_B, SHARED_A, SHARED_B, LAMBDA, TEMPLATE_A, TEMPLATE_B, SITES };
static site sites[SITES] = {
    SITE(leak_string_a), SITE(leak_string_b), SITE(leak_vector_a), SITE(leak_vector_b), SITE(leak_shared_a),
    SITE(leak_shared_b), SITE(leak_lambda), SITE(leak_template_a), SITE(leak_template_b),
};

#define LEAK_FN __attribute__((noinline, noclone, used)) static
static volatile int zero;

struct Payload {
    char bytes[200];
};

// What both leaks of a kind go through.
LEAK_FN void fill(std::string &text, size_t size)
{
    text.reserve(size);
    KEEP_FRAME();
}

LEAK_FN void fill(std::vector<int> &numbers, size_t size)
{
    numbers.reserve(size);
    KEEP_FRAME();
}

LEAK_FN void fill(std::shared_ptr<Payload> &payload)
{
    payload = std::make_shared<Payload>();
    KEEP_FRAME();
}

template <typename T, int N> LEAK_FN void grow(T **kept)
{
    *kept = new T[N];
    KEEP_FRAME();
}

static std::string string_a, string_b;
static std::vector<int> vector_a, vector_b;
static std::shared_ptr<Payload> shared_a, shared_b;
static char *template_a;
static short *template_b;
static void *lambda;

// libstdc++ asks for one byte more than the string holds.
LEAK_FN void leak_string_a() { fill(string_a, 400); book(&sites[STRING_A], 401); }
LEAK_FN void leak_string_b() { fill(string_b, 500); book(&sites[STRING_B], 501); }
LEAK_FN void leak_vector_a() { fill(vector_a, 100); book(&sites[VECTOR_A], 400); }
LEAK_FN void leak_vector_b() { fill(vector_b, 200); book(&sites[VECTOR_B], 800); }
LEAK_FN void leak_template_a() { grow<char, 70>(&template_a); book(&sites[TEMPLATE_A], 70); }
LEAK_FN void leak_template_b() { grow<short, 80>(&template_b); book(&sites[TEMPLATE_B], 160); }

// With its counts beside it: a vtable's address, two counts of 4 bytes, and the payload.
LEAK_FN void leak_shared_a() { fill(shared_a); book(&sites[SHARED_A], 216); }
LEAK_FN void leak_shared_b() { fill(shared_b); book(&sites[SHARED_B], 216); }

LEAK_FN void leak_lambda()
{
    std::function<void(size_t)> allocate = [](size_t size) {
        lambda = malloc(size);
        KEEP_FRAME();
    };
    allocate(90 + static_cast<size_t>(zero));
    book(&sites[LAMBDA], 90);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    leak_string_a();
    leak_string_b();
    leak_vector_a();
    leak_vector_b();
    leak_shared_a();
    leak_shared_b();
    leak_lambda();
    leak_template_a();
    leak_template_b();
    for (const site &it : sites)
        report_site(&it);
    victim_end();
}
