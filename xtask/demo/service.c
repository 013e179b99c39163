/*
 * A small service with memory leaks, for `cargo xtask demo`: it serves made-up requests, about a thousand a second.
 *
 * Three call paths leak:
 *   serve -> authenticate -> session_open       a session is kept for every login and never closed
 *   serve -> respond -> cache_store             a changed entry is replaced without freeing the old one
 *   serve -> audit -> format_line               a log line is forgotten when the log is switched off
 * Everything else that is allocated on the way is freed: request bodies, parsed headers, responses.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

/* Each function shall be a frame of its own in the picture. */
#define FRAME __attribute__((noinline))

struct session {
    unsigned user;
    char token[232];
};

struct request {
    unsigned number;
    char *headers;
    char *body;
};

/* Visible outside, or the compiler would find that nobody reads them, and leave out what is stored. */
struct session *newest_session;
char *cache[64];

FRAME static void session_open(unsigned user)
{
    struct session *session = calloc(1, sizeof *session);
    if (!session)
        abort();
    session->user = user;
    newest_session = session;
}

FRAME static void authenticate(const struct request *request)
{
    char *credentials = malloc(96);
    if (!credentials)
        abort();
    snprintf(credentials, 96, "user-%u", request->number % 1000);
    if (request->number % 4 == 0)
        session_open(request->number % 1000);
    free(credentials);
}

FRAME static void cache_store(unsigned slot, const char *body)
{
    size_t size = strlen(body) + 1;
    cache[slot] = malloc(size);
    if (!cache[slot])
        abort();
    memcpy(cache[slot], body, size);
}

FRAME static void respond(const struct request *request)
{
    char *page = malloc(1024);
    if (!page)
        abort();
    memset(page, 'x', 1023);
    page[1023] = '\0';
    if (request->number % 8 == 0)
        cache_store(request->number % 64, page);
    free(page);
}

FRAME static char *format_line(const struct request *request)
{
    char *line = malloc(64);
    if (!line)
        abort();
    snprintf(line, 64, "%u %.20s", request->number, request->headers);
    return line;
}

FRAME static void audit(const struct request *request, int enabled)
{
    char *line = format_line(request);
    if (!enabled)
        return;
    free(line);
}

FRAME static void parse(struct request *request)
{
    request->headers = malloc(256);
    request->body = malloc(64);
    if (!request->headers || !request->body)
        abort();
    snprintf(request->headers, 256, "GET /item/%u", request->number);
    request->body = realloc(request->body, 1024);
    if (!request->body)
        abort();
}

FRAME static void serve(unsigned number)
{
    struct request request = {.number = number};
    parse(&request);
    authenticate(&request);
    respond(&request);
    audit(&request, number % 2);
    free(request.headers);
    free(request.body);
}

int main(void)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    /* Not to outlive whoever shows it. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (unsigned number = 0;; number++) {
        serve(number);
        nanosleep(&pause, NULL);
    }
}
