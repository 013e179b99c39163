// What C++ programs hold: smart pointers, containers, objects with the life of the program, of a thread and of an exception.
//
// Containers allocate through an allocator that says what is expected of each of their blocks. The process ends past the
// destructors of its objects.
#include "waiting.h"

#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

template <int SIZE> struct Payload {
    char bytes[SIZE];
};

// Says of each block of elements what is expected; of tables of pointers, whose sizes are the library's, nothing.
template <class T> struct Expecting {
    using value_type = T;
    const char *kind;
    explicit Expecting(const char *kind) : kind(kind)
    {
    }
    template <class U> Expecting(const Expecting<U> &other) : kind(other.kind)
    {
    }
    T *allocate(size_t n)
    {
        if (sizeof(T) > sizeof(void *))
            EXPECT(n * sizeof(T), kind);
        return static_cast<T *>(filled(::operator new(n * sizeof(T)), n * sizeof(T)));
    }
    void deallocate(T *block, size_t)
    {
        ::operator delete(block);
    }
    template <class U> bool operator==(const Expecting<U> &) const
    {
        return true;
    }
    template <class U> bool operator!=(const Expecting<U> &) const
    {
        return false;
    }
};

template <int SIZE> using Vector = std::vector<Payload<SIZE>, Expecting<Payload<SIZE>>>;
template <int SIZE> using List = std::list<Payload<SIZE>, Expecting<Payload<SIZE>>>;
template <int SIZE> using Deque = std::deque<Payload<SIZE>, Expecting<Payload<SIZE>>>;
template <int SIZE> using Map = std::map<int, Payload<SIZE>, std::less<int>, Expecting<std::pair<const int, Payload<SIZE>>>>;
template <int SIZE>
using HashMap = std::unordered_map<int, Payload<SIZE>, std::hash<int>, std::equal_to<int>,
                                   Expecting<std::pair<const int, Payload<SIZE>>>>;

// Held by objects with the life of the program.
static Vector<2001> vector(Expecting<Payload<2001>>{REACHABLE});
static List<2101> list(Expecting<Payload<2101>>{REACHABLE});
static Map<2301> map(Expecting<std::pair<const int, Payload<2301>>>{REACHABLE});
static HashMap<2401> hash_map(Expecting<std::pair<const int, Payload<2401>>>{REACHABLE});
static std::unique_ptr<Payload<2501>> unique;
static std::shared_ptr<Payload<2601>> shared;
static std::weak_ptr<Payload<2701>> weak;
static std::function<int()> function;

SITE_FN static void hold_in_containers()
{
    vector.emplace_back();
    list.emplace_back();
    list.emplace_back();
    // Unlike the others it allocates when it is constructed.
    static Deque<2201> deque(Expecting<Payload<2201>>{REACHABLE});
    deque.emplace_back();
    map[1] = {};
    map[2] = {};
    map[3] = {};
    hash_map[1] = {};
    hash_map[2] = {};
}

SITE_FN static void hold_by_smart_pointers()
{
    EXPECT(2501, REACHABLE);
    unique = std::make_unique<Payload<2501>>();
    shared = std::allocate_shared<Payload<2601>>(Expecting<Payload<2601>>{REACHABLE});
    // The object is gone, and its memory stays as long as somebody may ask whether it is.
    weak = std::allocate_shared<Payload<2701>>(Expecting<Payload<2701>>{REACHABLE});
    Payload<2801> captured = {};
    EXPECT(sizeof captured, REACHABLE);
    function = [captured] { return captured.bytes[0]; };
}

// Lost, with what they hold. The nodes of a list and a map point back into the object, so that the lowest of them leads.
template <class Container> static Container *lost(Container *container)
{
    forget(container);
    return container;
}

SITE_FN static void lose_containers()
{
    struct WithVector {
        Payload<3001> size;
        Vector<3101> vector{Expecting<Payload<3101>>{INDIRECT}};
    };
    EXPECT(sizeof(WithVector), LOST);
    lost(new WithVector)->vector.emplace_back();
    struct WithMap {
        Payload<3201> size;
        std::map<int, Payload<3301>> map;
    };
    auto *object = new WithMap;
    auto *value = &object->map[1];
    size_t node = sizeof(std::_Rb_tree_node<std::pair<const int, Payload<3301>>>);
    bool first = static_cast<void *>(object) < static_cast<void *>(value);
    EXPECT(sizeof *object, first ? LOST " lsan=indirectly_lost" IN_A_CYCLE : INDIRECT);
    EXPECT(node, first ? INDIRECT : LOST " lsan=indirectly_lost" IN_A_CYCLE);
    forget(object);
}

// Two that own one another.
template <int SIZE> struct Owner {
    std::shared_ptr<void> other;
    Payload<SIZE> size;
};

SITE_FN static void lose_a_cycle()
{
    // What make_shared() allocates: the counts, and the object behind them.
    constexpr size_t COUNTS = 16;
    auto one = std::make_shared<Owner<3401>>();
    auto other = std::make_shared<Owner<3501>>();
    one->other = other;
    other->other = one;
    bool first = static_cast<void *>(one.get()) < static_cast<void *>(other.get());
    EXPECT(COUNTS + sizeof *one, first ? LOST " lsan=indirectly_lost" IN_A_CYCLE : INDIRECT);
    EXPECT(COUNTS + sizeof *other, first ? INDIRECT : LOST " lsan=indirectly_lost" IN_A_CYCLE);
}

// By a base that is not at the start of the object.
struct Base {
    char bytes[8];
};
struct Polymorphic {
    virtual ~Polymorphic() = default;
    char bytes[3601];
};
struct Derived : Polymorphic, Base {};
static Base *volatile base;

SITE_FN static void hold_by_a_base()
{
    EXPECT(sizeof(Derived), POSSIBLE);
    base = new Derived;
}

// A thread's variables with destructors, and the function that the thread runs, which the library allocates.
static thread_local std::unique_ptr<Payload<3701>> local_to_thread;

SITE_FN static void hold_in_a_threads_object()
{
    EXPECT(3701, REACHABLE);
    local_to_thread = std::make_unique<Payload<3701>>();
}

SITE_FN static void hold_by_a_thread()
{
    victim_require(pipe(never) == 0, "pipe");
    Payload<3801> captured = {};
    struct State {
        void *vtable;
        Payload<3801> captured;
    };
    EXPECT(sizeof(State), REACHABLE);
    std::thread([captured] {
        hold_in_a_threads_object();
        wait_for_ever();
        forget(const_cast<char *>(captured.bytes));
    }).detach();
    while (!there)
        usleep(1000);
}

// An exception that is being handled: to the library a pointer into the middle of its block, behind a header. What is thrown
// holds a block.
struct Thrown {
    std::unique_ptr<Payload<3901>> held;
    Payload<4001> size;
};

SITE_FN static void throw_one()
{
    EXPECT(3901, POSSIBLE);
    throw Thrown{std::make_unique<Payload<3901>>(), {}};
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(hold_in_containers);
    CASE(hold_by_smart_pointers);
    CASE(lose_containers);
    CASE(lose_a_cycle);
    CASE(hold_by_a_base);
    CASE(hold_by_a_thread);
    try {
        throw_one();
    } catch (const Thrown &) {
        judged();
        _exit(0);
    }
}
