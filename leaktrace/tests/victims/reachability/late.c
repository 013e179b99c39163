/* Blocks that only blocks from before the trace hold: there is a way to them, or there may be; they are not definitely
 * lost.
 *
 * The early blocks are made before "ready", and nothing is said of them. A tracer that comes then knows neither where
 * they begin and end nor whether they are still allocated. Undecided: whether what they hold is "still reachable", as
 * it is, or "possibly lost", as far as one knows.
 */
#include "expect.h"

static void **volatile table, **volatile big_table, **volatile middle_of_a_table;
static volatile uintptr_t inverted_lost_table, inverted_freed_table;

static void **new_table(size_t size)
{
    return filled(malloc(size), size);
}

SITE_FN static void make_tables(void)
{
    table = new_table(3000);
    /* Mapped by malloc. */
    big_table = new_table(1 << 20);
    middle_of_a_table = new_table(3010) + 1;
    inverted_lost_table = masked(new_table(3020));
    inverted_freed_table = masked(new_table(3030));
}

#define UNKNOWN REACHABLE "/" POSSIBLE

SITE_FN static void hold_by_tables(void)
{
    table[10] = BLOCK(1001, UNKNOWN);
    *(void **)table[10] = BLOCK(1003, UNKNOWN);
    table[11] = (char *)BLOCK(1005, POSSIBLE) + 8;
    big_table[1000] = BLOCK(1007, UNKNOWN);
    middle_of_a_table[20] = BLOCK(1009, POSSIBLE "/" REACHABLE " valgrind=possibly_lost");
}

/* Nobody has a pointer to that table, but a tracer that has not seen it begin cannot know. */
#define NOT_REACHABLE " valgrind=indirectly_lost lsan=indirectly_lost # it has seen the table's beginning"

SITE_FN static void hold_by_a_lost_table(void)
{
    ((void **)~inverted_lost_table)[12] = BLOCK(1011, POSSIBLE "/" INDIRECT NOT_REACHABLE);
}

/* That table is freed after; what a tracer knows of it is where it began. */
SITE_FN static void hold_by_a_freed_table(void)
{
    void **freed = (void **)~inverted_freed_table;
    freed[13] = BLOCK(1013, LOST "/" POSSIBLE " valgrind=definitely_lost");
    forget(freed);
    free(freed);
}

/* From the time of the trace, and lost. */
SITE_FN static void lose(void)
{
    forget(BLOCK(1021, LOST));
    void **leader = BLOCK(1023, LOST);
    *leader = BLOCK(1025, INDIRECT);
    forget(leader);
}

int main(int argc, char **argv)
{
    CASE(make_tables);
    victim_begin(argc, argv);
    CASE(hold_by_tables);
    CASE(hold_by_a_lost_table);
    CASE(hold_by_a_freed_table);
    CASE(lose);
    judged();
    return 0;
}
