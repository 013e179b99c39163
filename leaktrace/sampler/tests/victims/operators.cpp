// Every operator new and delete of C++17, those that throw included unless there is a second argument.
#include "gate.h"
#include <new>

template <class Allocate> static void throws(Allocate allocate)
{
    bool is_thrown = false;
    try {
        allocate();
    } catch (const std::bad_alloc &) {
        is_thrown = true;
    }
    if (!is_thrown)
        _exit(5);
    // The exception lies in a block of malloc's.
    __atomic_add_fetch(&allocations, 1, __ATOMIC_SEQ_CST);
    gone();
}

static void work(unsigned rounds, bool has_exceptions)
{
    const std::align_val_t wide{256};
    // Before the books begin: some of these throw and catch inside.
    if (has_exceptions)
        throws([] { return ::operator new(huge); });
    if (::operator new(huge, std::nothrow) || ::operator new[](huge, std::nothrow))
        _exit(6);
    allocations = frees = 0;
    gate();
    for (unsigned round = 0; round < rounds; round++) {
        size_t size = 1 + round % 500;
        ::operator delete(got(::operator new(size)));
        gone();
        ::operator delete(got(::operator new(size)), size);
        gone();
        ::operator delete[](got(::operator new[](size)));
        gone();
        ::operator delete[](got(::operator new[](size)), size);
        gone();
        ::operator delete(got(::operator new(size, std::nothrow)), std::nothrow);
        gone();
        ::operator delete[](got(::operator new[](size, std::nothrow)), std::nothrow);
        gone();
        ::operator delete(got(::operator new(size, wide)), wide);
        gone();
        ::operator delete(got(::operator new(size, wide)), size, wide);
        gone();
        ::operator delete[](got(::operator new[](size, wide)), wide);
        gone();
        ::operator delete[](got(::operator new[](size, wide)), size, wide);
        gone();
        ::operator delete(got(::operator new(size, wide, std::nothrow)), wide, std::nothrow);
        gone();
        ::operator delete[](got(::operator new[](size, wide, std::nothrow)), wide, std::nothrow);
        gone();
        got(::operator new(zero));
        ::operator delete(nullptr);
        if (has_exceptions && round % 100 == 0) {
            throws([] { return ::operator new(huge); });
            throws([] { return ::operator new[](huge); });
        }
    }
}

#ifdef PLUGIN
extern "C" void plugin_run()
{
    work(200, true);
    gate();
}
#else
int main(int count, char **arguments)
{
    work(count > 1 ? (unsigned)atoi(arguments[1]) : 200, count <= 2);
    gate();
    return 0;
}
#endif
