/* Loads the shared object named by its argument, and unloads it at the first step. */
#include "report.h"
#include <dlfcn.h>

int main(int argc, char **argv) {
    void *plugin = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    const void *(*entry)(void) = plugin ? (const void *(*)(void))dlsym(plugin, "plugin_entry") : NULL;
    if (!entry)
        return 1;
    say("plugin", entry());
    ready();
    if (step()) {
        dlclose(plugin);
        ready();
    }
    while (step())
        ready();
    return 0;
}
