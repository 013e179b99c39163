// Templates, lambdas, overloads and constructors, in C++.
#include "report.h"
#include <functional>
#include <string>

__attribute__((noinline, noipa)) void record(const char *name) { say(name, __builtin_return_address(0)); }

namespace shop {
template <typename T> struct Box {
    T value;
    __attribute__((noinline, noipa)) explicit Box(T start) : value(start) {
        record("constructor");
        value += 1;
    }
    template <typename U> __attribute__((noinline, noipa)) U fill(U with, const std::string &name) {
        record("template");
        return with + static_cast<U>(value) + static_cast<U>(name.size());
    }
};
} // namespace shop

namespace {
__attribute__((noinline, noipa)) int overloaded(int x) {
    record("unnamed_namespace");
    return x + 1;
}
} // namespace

static inline __attribute__((always_inline)) int inlined_into_lambda(int x) {
    record("lambda"); // LINE inlined_into_lambda
    return x * 2;
}

int main() {
    shop::Box<int> box(1);
    std::function<int(int)> lambda = [&](int x) {
        return inlined_into_lambda(x) + box.value; // LINE lambda
    };
    auto whole = [&](long x) __attribute__((noinline, noipa)) {
        record("whole_lambda");
        return static_cast<int>(x) + box.value;
    };
    int sum = static_cast<int>(box.fill<long>(2, "three")) + overloaded(4) + lambda(5) + whole(6);
    ready();
    while (step())
        ready();
    return sum == 0;
}
