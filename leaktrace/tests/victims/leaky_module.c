/* A module for redis-server: `LEAKY` loses and keeps blocks of `malloc` (3001 and 3003 bytes), which is that of the allocator the
 * server is linked with, and of the server's own function for modules (3005 and 3007). What it needs of redismodule.h, which distributions do not ship, is declared here. */
#include "leaky.h"

typedef int get_fn(const char *name, void *function);
typedef int command_fn(void *context, void **words, int count);

static allocate_fn *allocate_of_server;
static int (*reply)(void *context, long long number);

static int leaky(void *context, void **words, int count)
{
    static long long done;
    (void)words, (void)count;
    lose(malloc, 3001);
    keep(malloc, 3003);
    lose(allocate_of_server, 3005);
    keep(allocate_of_server, 3007);
    return reply(context, ++done);
}

__attribute__((visibility("default"))) int RedisModule_OnLoad(void *context, void **words, int count)
{
    (void)words, (void)count;
    get_fn *get = *(get_fn **)context;
    void (*introduce)(void *context, const char *name, int version, int interface);
    int (*create)(void *context, const char *name, command_fn *, const char *flags, int first, int last, int step);
    if (get("RedisModule_SetModuleAttribs", &introduce) != 0 || get("RedisModule_CreateCommand", &create) != 0
        || get("RedisModule_Alloc", &allocate_of_server) != 0 || get("RedisModule_ReplyWithLongLong", &reply) != 0)
        return 1;
    introduce(context, "leaky", 1, 1);
    return create(context, "leaky", leaky, "", 0, 0, 0);
}
