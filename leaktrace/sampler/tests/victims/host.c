/* A C program that loads a C++ plug-in, whose runtime nobody else sees. */
#include <dlfcn.h>
#include <stdio.h>

int main(int count, char **arguments)
{
    void *plugin = count > 1 ? dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!plugin) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    void (*run)(void) = (void (*)(void))dlsym(plugin, "plugin_run");
    if (!run)
        return 2;
    run();
    return 0;
}
