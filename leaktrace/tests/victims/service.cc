// A service under load: threads open sessions and close them again, and hold some in a cache. A session and its connection
// own each other by shared_ptr until one of them lets go. `forgetful` sessions never do: each is a cycle that nobody can reach,
// with a buffer that hangs on it.
//
// The books are kept by the allocator of the shared pointers, which knows the size of each block, control block included. A
// line for each lost block of the service: "SIZE FUNCTION KIND". Of a cycle's two blocks the one with the lower address leads:
// it is definitely lost, and the rest indirectly.
//
// Arguments: how many sessions are lost (100), how many threads make load (3). In `wait` the load goes on until the end.
#include <atomic>
#include <cstdlib>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "reachability/expect.h"

namespace {

// What the last block of a shared pointer measured, and where it lies, in a form that nobody takes for a pointer.
thread_local size_t last_size;
thread_local uintptr_t last_place;

// An allocator that keeps the books.
template <class T>
struct Booked {
    using value_type = T;
    Booked() = default;
    template <class U>
    Booked(const Booked<U> &)
    {
    }
    T *allocate(size_t n)
    {
        void *block = ::operator new(n * sizeof(T));
        last_size = n * sizeof(T);
        last_place = masked(block);
        return static_cast<T *>(block);
    }
    void deallocate(T *block, size_t)
    {
        ::operator delete(block);
    }
};

struct Connection;

struct Session {
    std::shared_ptr<Connection> connection;
    uint64_t user;
    char state[200];
};

struct Connection {
    std::shared_ptr<Session> session;
    std::unique_ptr<char[]> buffer;
    size_t size;
};

struct Books {
    size_t session, connection, buffer;
    bool session_leads;
};

SITE_FN std::shared_ptr<Session> new_session(uint64_t user)
{
    auto session = std::allocate_shared<Session>(Booked<Session>());
    session->user = user;
    KEEP_FRAME();
    return session;
}

SITE_FN std::shared_ptr<Connection> new_connection()
{
    auto connection = std::allocate_shared<Connection>(Booked<Connection>());
    KEEP_FRAME();
    return connection;
}

SITE_FN std::unique_ptr<char[]> new_buffer(size_t size)
{
    std::unique_ptr<char[]> buffer(new char[size]);
    memset(buffer.get(), 0x5a, size);
    KEEP_FRAME();
    return buffer;
}

SITE_FN std::shared_ptr<Session> open_session(uint64_t user, Books *books)
{
    auto session = new_session(user);
    uintptr_t place = last_place;
    books->session = last_size;
    auto connection = new_connection();
    books->session_leads = ~place < ~last_place;
    books->connection = last_size;
    books->buffer = 1000 + user % 50;
    connection->buffer = new_buffer(books->buffer);
    connection->size = books->buffer;
    connection->session = session;
    session->connection = std::move(connection);
    return session;
}

SITE_FN void close_session(const std::shared_ptr<Session> &session)
{
    session->connection->session.reset();
    session->connection.reset();
}

SITE_FN Books serve_forgetful(uint64_t user)
{
    Books books = {};
    auto session = open_session(user, &books);
    memset(session->state, 0x5a, sizeof session->state);
    KEEP_FRAME();
    return books;
}

std::atomic<bool> ended;
std::atomic<uint64_t> served;

// Opens sessions, of which the last hundred stay in a cache, and closes all the others.
void load(uint64_t seed)
{
    std::unordered_map<uint64_t, std::shared_ptr<Session>> cache;
    Books books = {};
    for (uint64_t user = seed; !ended; user += 7) {
        auto session = open_session(user, &books);
        auto &place = cache[user % 100];
        if (place)
            close_session(place);
        place = std::move(session);
        served++;
        usleep(200);
    }
    for (auto &entry : cache)
        close_session(entry.second);
}

SITE_FN void lose(const Books &books)
{
    victim_say("%zu new_session %s\n", books.session, books.session_leads ? LOST : INDIRECT);
    victim_say("%zu new_connection %s\n", books.connection, books.session_leads ? INDIRECT : LOST);
    victim_say("%zu new_buffer %s\n", books.buffer, INDIRECT);
}

} // namespace

int main(int argc, char **argv)
{
    // The load is there before the trace.
    std::vector<std::thread> threads;
    for (unsigned long i = 0; i < victim_number(argc, argv, 3, 3); i++)
        threads.emplace_back(load, i * 1000003);
    victim_begin(argc, argv);
    for (unsigned long i = 0; i < victim_number(argc, argv, 2, 100); i++) {
        lose(serve_forgetful(i * 31));
        scrub();
        usleep(500);
    }
    // Each thread has gone through its cache since.
    for (uint64_t until = served + 1000; served < until;)
        usleep(1000);
    scrub();
    victim_end();
    ended = true;
    for (auto &thread : threads)
        thread.join();
}
