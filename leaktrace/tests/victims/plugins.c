/* Loads plug-ins, one at a time and each at the address of the one before, has each leak and unloads it.
 *
 *     plugins wait|run ROUNDS ALPHA.so BETA.so        alpha and beta in turns
 *
 * With one plug-in it is loaded in each round. Between the rounds the program itself leaks. With OVER each is copied over the one
 * before, in place, and loaded from there: from the file named before them.
 */
#include "victim.h"
#include <dlfcn.h>
#include <link.h>

#define CALLS 10

enum { ALPHA, BETA, OWN, SITES };
static struct site sites[SITES] = {SITE(leak_alpha), SITE(leak_beta), SITE(leak_between)};
static void *volatile kept;

SITE_FN static void leak_between(void)
{
    kept = malloc(40);
    book(&sites[OWN], 40);
    KEEP_FRAME();
}

/* Where it lay. */
SITE_FN static unsigned long with_plug(const char *path, struct site *site)
{
    void *plug = dlopen(path, RTLD_NOW);
    victim_require(plug != NULL, "the plug-in cannot be loaded");
    size_t (*size)(void) = (size_t (*)(void))dlsym(plug, "plug_size");
    void (*run)(void) = (void (*)(void))dlsym(plug, "plug_run");
    victim_require(size != NULL && run != NULL, "the plug-in lacks a function");
    for (int i = 0; i < CALLS; i++) {
        run();
        book(site, size());
    }
    struct link_map *map = NULL;
    victim_require(dlinfo(plug, RTLD_DI_LINKMAP, &map) == 0, "dlinfo");
    unsigned long base = map->l_addr;
    victim_require(dlclose(plug) == 0, "dlclose");
    return base;
}

#ifdef OVER
/* Writes what that file holds into this one. */
static void copy(const char *from, const char *to)
{
    static char bytes[1 << 20];
    FILE *in = fopen(from, "r"), *out = fopen(to, "w");
    victim_require(in != NULL && out != NULL, "a plug-in cannot be copied");
    size_t size = fread(bytes, 1, sizeof bytes, in);
    victim_require(fwrite(bytes, 1, size, out) == size, "a plug-in cannot be written");
    fclose(in);
    fclose(out);
}
#endif

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    unsigned long rounds = victim_number(argc, argv, 2, 2), first = 0, moved = 0;
    victim_require(argc > 3, "which plug-ins?");
#ifdef OVER
    const char *over = argv[3];
    argv++;
    argc--;
#endif
    int plugs = argc - 3;
    for (unsigned long i = 0; i < rounds; i++) {
        const char *plug = argv[3 + i % plugs];
#ifdef OVER
        copy(plug, over);
        plug = over;
#endif
        unsigned long base = with_plug(plug, &sites[i % plugs]);
        first = i == 0 ? base : first;
        moved += base != first;
        leak_between();
    }
    for (int i = 0; i < SITES; i++)
        if (sites[i].allocs > 0)
            report_site(&sites[i]);
    report_fact("moved", moved);
    victim_end();
    return 0;
}
