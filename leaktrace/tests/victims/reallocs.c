/* Every way realloc can go: from NULL, in place, moving, shrinking, remapping, to nothing, and failing.
 *
 * A realloc that succeeds frees the old block (at the old block's site) and allocates the new one (at its own), also
 * where the address stays; one that fails changes nothing.
 */
#include "victim.h"

#define ROUNDS 10

enum { ORIGIN, FROM_NULL, IN_PLACE, MOVING, SHRINKING, REMAPPED, FAILING, TO_ZERO, ARRAY, SITES };

static struct site sites[SITES] = {
    SITE(leak_origin),     SITE(leak_from_null), SITE(leak_in_place),   SITE(leak_moving), SITE(leak_shrinking),
    SITE(leak_remapped),   SITE(fail_to_grow),   SITE(shrink_to_zero),  SITE(leak_array),
};

static void *kept[SITES][ROUNDS];
static volatile size_t huge = (size_t)1 << 62;

/* Where the blocks come from that the others reallocate. */
SITE_FN static void *leak_origin(size_t size)
{
    void *p = malloc(size);
    victim_require(p != NULL, "malloc failed");
    book(&sites[ORIGIN], size);
    return p;
}

static void take_over(int site, size_t old, size_t size)
{
    unbook(&sites[ORIGIN], old);
    book(&sites[site], size);
}

SITE_FN static void *leak_from_null(size_t size)
{
    void *p = realloc(NULL, size);
    book(&sites[FROM_NULL], size);
    return p;
}

SITE_FN static void *leak_in_place(void *old, size_t old_size, size_t size)
{
    void *p = realloc(old, size);
    victim_require(p == old, "this realloc was to stay in place");
    take_over(IN_PLACE, old_size, size);
    return p;
}

SITE_FN static void *leak_moving(void *old, size_t old_size, size_t size)
{
    uintptr_t before = (uintptr_t)old;
    void *p = realloc(old, size);
    victim_require(p != NULL && (uintptr_t)p != before, "this realloc was to move");
    take_over(MOVING, old_size, size);
    return p;
}

SITE_FN static void *leak_shrinking(void *old, size_t old_size, size_t size)
{
    void *p = realloc(old, size);
    victim_require(p != NULL, "realloc failed");
    take_over(SHRINKING, old_size, size);
    return p;
}

SITE_FN static void *leak_remapped(void *old, size_t old_size, size_t size)
{
    void *p = realloc(old, size);
    victim_require(p != NULL, "realloc failed");
    take_over(REMAPPED, old_size, size);
    return p;
}

SITE_FN static void fail_to_grow(void *old)
{
    victim_require(realloc(old, huge) == NULL, "a realloc to 2^62 bytes succeeded");
    victim_require(reallocarray(old, huge, 16) == NULL, "an overflowing reallocarray succeeded");
    KEEP_FRAME();
}

SITE_FN static void shrink_to_zero(void *old, size_t old_size)
{
    victim_require(realloc(old, 0) == NULL, "realloc(p, 0) was to free");
    unbook(&sites[ORIGIN], old_size);
}

SITE_FN static void *leak_array(void *old, size_t old_size, size_t n, size_t size)
{
    void *p = reallocarray(old, n, size);
    victim_require(p != NULL, "reallocarray failed");
    take_over(ARRAY, old_size, n * size);
    return p;
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    for (int i = 0; i < ROUNDS; i++) {
        size_t n = (size_t)i + 1;
        kept[FROM_NULL][i] = leak_from_null(100 * n);

        /* Room left in the chunk: 24 bytes and 20 bytes live in the same one. */
        kept[IN_PLACE][i] = leak_in_place(leak_origin(20), 20, 24);

        /* Above the mmap threshold: from the heap into a mapping, whatever lies behind it. */
        kept[MOVING][i] = leak_moving(leak_origin(2000), 2000, 600000 + n);

        kept[SHRINKING][i] = leak_shrinking(leak_origin(9000), 9000, 16 * n);
        kept[REMAPPED][i] = leak_remapped(leak_origin(400000), 400000, 4000000 + n);

        void *stays = leak_origin(77 * n);
        fail_to_grow(stays);
        if (i % 2) {
            free(stays);
            unbook(&sites[ORIGIN], 77 * n);
        } else {
            kept[FAILING][i] = stays;
        }

        shrink_to_zero(leak_origin(500 + n), 500 + n);
        kept[ARRAY][i] = leak_array(leak_origin(10), 10, n, 48);
        kept[ORIGIN][i] = leak_origin(11 * n);
    }
    report_all(sites, SITES);
    victim_end();
    return 0;
}
