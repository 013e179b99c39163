/* An extension of CPython: `leaky.leaky()` loses and keeps a block each of the C library's allocator (3001 and 3003 bytes) and of
 * the interpreter's raw one (3005 and 3007). What it needs of Python.h, which is a package of its own, is declared here. */
#include "leaky.h"

struct object;
struct method {
    const char *name;
    struct object *(*call)(struct object *self, struct object *arguments);
    int flags;
    const char *text;
};
struct module {
    /* References, type, initializer, index, copy. */
    size_t head[5];
    const char *name, *text;
    long size;
    struct method *methods;
    void *rest[4];
};

enum { NO_ARGUMENTS = 4, INTERFACE = 1013 };

struct object *PyModule_Create2(struct module *, int interface);
struct object *PyLong_FromLong(long);
void *PyMem_RawMalloc(size_t);

static struct object *leaky(struct object *self, struct object *arguments)
{
    static long done;
    (void)self, (void)arguments;
    lose(malloc, 3001);
    keep(malloc, 3003);
    lose(PyMem_RawMalloc, 3005);
    keep(PyMem_RawMalloc, 3007);
    return PyLong_FromLong(++done);
}

__attribute__((visibility("default"))) struct object *PyInit_leaky(void)
{
    static struct method methods[] = { { "leaky", leaky, NO_ARGUMENTS, NULL }, { NULL, NULL, 0, NULL } };
    static struct module module = { { 1 }, "leaky", NULL, -1, methods, { NULL } };
    return PyModule_Create2(&module, INTERFACE);
}
