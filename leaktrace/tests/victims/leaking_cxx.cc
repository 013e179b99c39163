// The same as leaking.c from C++: arrays by new[], objects that own others, and threads that have ended.
//
// Arguments: `arrays` or `threads`.
#include <thread>
#include <vector>

#include "reachability/expect.h"

struct Owner {
    std::vector<int> numbers;
    std::vector<char> name;
    int *array;
};

SITE_FN static void lose_arrays()
{
    for (int i = 0; i < 4; i++)
        forget(new int[100]);
    forget(new double[10]);
    forget(new char);
    KEEP_FRAME();
}

// The object is lost, and what its members own is lost with it.
SITE_FN static void lose_an_owner()
{
    auto *owner = new Owner;
    owner->numbers.resize(50);
    owner->name.resize(201);
    owner->array = new int[25];
    forget(owner);
    KEEP_FRAME();
}

SITE_FN static void work()
{
    forget(new int[30]);
    forget(malloc(500));
    scrub();
}

SITE_FN static void lose_in_threads()
{
    for (int i = 0; i < 3; i++) {
        std::thread thread(work);
        thread.join();
    }
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    if (argc > 2 && strcmp(argv[2], "threads") == 0) {
        CASE(lose_in_threads);
    } else {
        CASE(lose_arrays);
        CASE(lose_an_owner);
    }
    victim_end();
}
