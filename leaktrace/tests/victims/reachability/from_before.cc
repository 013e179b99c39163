// What a program holds through objects that it made before the trace: a service whose whole state is one object, and whose threads
// have allocated and freed for a while in arenas of their own.
//
// All of it can be reached, however little a tracer that comes late has seen of the way; and what only memory that was freed holds
// is lost, also where the program still has a pointer to that memory.
#include "waiting.h"

#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

namespace
{
template <int SIZE> struct Payload {
    char bytes[SIZE];
};

template <int SIZE> Payload<SIZE> *payload(const char *kind)
{
    EXPECT(SIZE, kind);
    return static_cast<Payload<SIZE> *>(filled(::operator new(SIZE), SIZE));
}

struct Session {
    virtual ~Session() = default;
    void *data = nullptr;
    std::shared_ptr<Session> peer;
};

struct App {
    virtual ~App() = default;
    std::map<int, std::unique_ptr<Session>> sessions;
    std::unordered_map<std::string, void *> names;
    std::list<void *> queue;
    // Its array has a mapping of its own.
    std::vector<void *> table = std::vector<void *>(1 << 20);
    void **middle = nullptr;
};

App *app;

// Freed blocks of all sizes: in the thread's cache, in fastbins, in the other lists. Each freed one had a pointer before it was free.
void churn()
{
    std::vector<void *> blocks;
    for (int round = 0; round < 30; round++)
        for (size_t size = 24; size < 5000; size += size / 3)
            blocks.push_back(filled(malloc(size), size));
    for (size_t i = 0; i < blocks.size(); i += 1 + i % 3) {
        free(blocks[i]);
        blocks[i] = nullptr;
    }
    // The others stay.
    static std::mutex lock;
    static std::vector<void *> kept;
    std::lock_guard<std::mutex> guard(lock);
    kept.insert(kept.end(), blocks.begin(), blocks.end());
}

struct Worker {
    void *local = nullptr;
    void **own = nullptr;
};

Worker *workers[2];
volatile int ready, go;

void work(int number)
{
    churn();
    auto *worker = new Worker;
    worker->own = static_cast<void **>(filled(calloc(100, 8), 800));
    workers[number] = worker;
    __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
    for (;;)
        pause();
}

// As large as the C library's own record of what a thread keeps for its next requests, and in the same place: in a variable of the
// thread. One begins lists where that does.
thread_local void **context, **lists;
struct Node {
    Node *next;
    void *data[2];
};
// Aligned blocks with mappings of their own.
void **page_aligned, **farther;

SITE_FN void make_what_looks_like_the_allocators()
{
    context = static_cast<void **>(calloc(1, 640));
    lists = static_cast<void **>(calloc(1, 640));
    for (int i = 0; i < 200; i++) {
        auto *node = static_cast<Node *>(calloc(1, sizeof(Node)));
        node->next = static_cast<Node *>(lists[16]);
        lists[16] = node;
    }
    page_aligned = static_cast<void **>(filled(aligned_alloc(4096, 1 << 20), 1 << 20));
    farther = static_cast<void **>(filled(aligned_alloc(65536, 1 << 18), 1 << 18));
}

SITE_FN void make_before()
{
    app = new App;
    churn();
    for (int i = 0; i < 100; i++)
        app->sessions[i].reset(new Session);
    for (int i = 0; i < 1000; i++)
        app->names["a name that is too long to be kept in the string itself " + std::to_string(i)] = nullptr;
    app->queue.push_back(nullptr);
    app->middle = static_cast<void **>(filled(malloc(4000), 4000)) + 10;
    std::thread(work, 0).detach();
    std::thread(work, 1).detach();
    while (ready < 2)
        usleep(1000);
}

// Early blocks that will be freed. The program forgets the first pointer to each, and keeps the second.
constexpr int KINDS = 3;
const size_t EARLY[KINDS] = {500, 100, 6000};
constexpr int COUNT = 9;
uintptr_t inverted[KINDS][COUNT];
void **dangling[KINDS];

SITE_FN void make_what_is_freed()
{
    for (int kind = 0; kind < KINDS; kind++)
        for (int i = 0; i < COUNT; i++) {
            inverted[kind][i] = masked(filled(malloc(EARLY[kind]), EARLY[kind]));
            forget(filled(malloc(40), 40));
        }
}

SITE_FN void hold_through_objects()
{
    app->sessions[50]->data = payload<1001>(REACHABLE);
    app->names.begin()->second = payload<1003>(REACHABLE);
    app->queue.front() = payload<1005>(REACHABLE);
    app->queue.push_back(payload<1007>(REACHABLE));
    app->table[999999] = payload<1009>(REACHABLE);
    *reinterpret_cast<void **>(app->table[999999]) = payload<1011>(REACHABLE);
    app->middle[5] = payload<1013>(POSSIBLE);
    workers[0]->local = payload<1015>(REACHABLE);
    workers[1]->own[99] = payload<1017>(REACHABLE);
    app->table[7] = reinterpret_cast<char *>(payload<1019>(POSSIBLE)) + 16;
}

SITE_FN void hold_in_what_looks_like_the_allocators()
{
    context[3] = payload<1021>(REACHABLE);
    lists[5] = payload<1023>(REACHABLE);
    static_cast<Node *>(lists[16])->next->data[1] = payload<1025>(REACHABLE);
    page_aligned[1000] = payload<1027>(REACHABLE);
    farther[0] = payload<1029>(REACHABLE);
}

SITE_FN void lose_cycles()
{
    auto first = std::make_shared<Session>(), second = std::make_shared<Session>();
    first->peer = second;
    second->peer = first;
    first->data = payload<1031>(INDIRECT);
    forget(payload<1033>(LOST));
}

// In a thread's cache, in a fastbin, among larger free chunks; the last of each kind is the one.
SITE_FN void hold_in_what_is_freed()
{
    void *blocks[KINDS] = {payload<1041>(LOST), payload<1043>(LOST), payload<1045>(LOST)};
    for (int kind = 0; kind < KINDS; kind++) {
        int last = kind == 0 ? 0 : COUNT - 1;
        dangling[kind] = reinterpret_cast<void **>(~inverted[kind][last]);
        dangling[kind][6] = blocks[kind];
        for (int i = 0; i < COUNT; i++)
            free(reinterpret_cast<void *>(~inverted[kind][i]));
    }
}
}

int main(int argc, char **argv)
{
    CASE(make_before);
    CASE(make_what_looks_like_the_allocators);
    CASE(make_what_is_freed);
    victim_begin(argc, argv);
    CASE(hold_through_objects);
    CASE(hold_in_what_looks_like_the_allocators);
    CASE(lose_cycles);
    CASE(hold_in_what_is_freed);
    judged();
    _exit(0);
}
