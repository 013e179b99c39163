/* Leaks of each kind that LeakSanitizer tells apart, from C: what it reports of them must be what leaktrace writes in its form.
 *
 * Arguments: `direct` or `indirect`.
 */
#include "reachability/expect.h"

struct node {
    struct node *next;
    char payload[40];
};

/* Five blocks of one site, and one each by the other functions. */
SITE_FN static void lose_by_malloc(void)
{
    for (int i = 0; i < 5; i++)
        forget(malloc(100));
    KEEP_FRAME();
}

SITE_FN static void lose_by_calloc(void)
{
    forget(calloc(3, 7));
    KEEP_FRAME();
}

SITE_FN static void lose_by_realloc(void)
{
    forget(realloc(malloc(10), 3000));
    KEEP_FRAME();
}

/* The same call from stacks of three depths: three sites. */
SITE_FN static void lose_below(int depth)
{
    if (depth > 0)
        lose_below(depth - 1);
    else
        forget(malloc(64));
    KEEP_FRAME();
}

SITE_FN static struct node *new_node(struct node *next)
{
    struct node *node = filled(malloc(sizeof *node), sizeof *node);
    node->next = next;
    return node;
}

/* Three lists of four: of each the first node is lost, and the rest hangs on it, from other sites. */
SITE_FN static void lose_lists(void)
{
    for (int i = 0; i < 3; i++) {
        struct node *list = new_node(NULL);
        list = new_node(list);
        list = new_node(list);
        list = new_node(list);
        forget(list);
    }
    KEEP_FRAME();
}

/* Volatile: the compiler would leave out what nobody reads. */
static struct node *volatile kept;

SITE_FN static void keep_a_list(void)
{
    kept = new_node(new_node(NULL));
    KEEP_FRAME();
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(keep_a_list);
    if (argc > 2 && strcmp(argv[2], "direct") == 0) {
        CASE(lose_by_malloc);
        CASE(lose_by_calloc);
        CASE(lose_by_realloc);
        for (int depth = 0; depth < 3; depth++)
            lose_below(depth);
    } else {
        CASE(lose_lists);
    }
    victim_end();
    return 0;
}
