/* A library for frames.c to load: leaks in its constructor, and when called. */
#include "victim.h"

static struct site constructor = SITE(leak_plugin_constructor), entered = SITE(leak_plugin);
static void *kept[2];

__attribute__((constructor, noinline, noclone, used)) static void leak_plugin_constructor(void)
{
    kept[0] = malloc(301);
    book(&constructor, 301);
    KEEP_FRAME();
}

__attribute__((noinline, noclone, used)) static void leak_plugin(void)
{
    kept[1] = malloc(302);
    book(&entered, 302);
    KEEP_FRAME();
}

__attribute__((visibility("default"))) void plugin_enter(void)
{
    leak_plugin();
    report_site(&constructor);
    report_site(&entered);
}
