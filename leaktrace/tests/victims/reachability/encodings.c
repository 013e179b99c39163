/* Pointers in other forms than an aligned word with the address of a block's start.
 *
 * What a pass over unaligned words and words without their tag bits finds is possibly lost, and so is what it points
 * at. memcheck and LeakSanitizer look at aligned whole words only: a low tag is a pointer into the middle to them, and
 * all else is not seen.
 */
#include "expect.h"

#define NOT_SEEN " valgrind=definitely_lost lsan=definitely_lost # it looks at aligned whole words only"

/* Red-black trees and others keep a bit or three in the low bits. */
static uintptr_t low_bit, low_bits;

SITE_FN static void tag_low_bits(void)
{
    low_bit = (uintptr_t)BLOCK(1001, POSSIBLE) | 1;
    low_bits = (uintptr_t)BLOCK(1003, POSSIBLE) | 7;
}

/* Counters and types in the 16 bits that an address leaves free. */
static uintptr_t high_bits, high_and_low_bits, negative;

SITE_FN static void tag_high_bits(void)
{
    void **block = BLOCK(1011, POSSIBLE NOT_SEEN);
    *block = BLOCK(1013, POSSIBLE " valgrind=indirectly_lost lsan=indirectly_lost # as the block that holds it");
    high_bits = (uintptr_t)block | (uintptr_t)0x5a << 56;
    high_and_low_bits = (uintptr_t)BLOCK(1015, POSSIBLE NOT_SEEN) | (uintptr_t)0x1234 << 48 | 1;
    negative = (uintptr_t)BLOCK(1017, POSSIBLE NOT_SEEN) | (uintptr_t)0xffff << 48;
}

/* As epoll_event has it. */
static struct {
    uint32_t events;
    void *pointer;
} __attribute__((packed)) unaligned[2];

SITE_FN static void store_unaligned(void)
{
    unaligned[0].pointer = BLOCK(1021, POSSIBLE NOT_SEEN);
    unaligned[1].events = 1;
}

/* In a block, whose words are looked at as well. */
static void *volatile holder;

SITE_FN static void store_unaligned_in_a_block(void)
{
    char *block = BLOCK(1031, REACHABLE);
    void *pointer = BLOCK(1033, POSSIBLE NOT_SEEN);
    memcpy(block + 100, &pointer, sizeof pointer);
    holder = block;
}

/* A list of Linux's kind: the head points at the links, which lie behind other members. */
struct link {
    struct link *next, *previous;
};
static struct link list = {&list, &list};

struct item {
    long key[2];
    struct link link;
};

static void append(struct item *item)
{
    item->link.next = &list;
    item->link.previous = list.previous;
    list.previous->next = &item->link;
    list.previous = &item->link;
}

SITE_FN static void keep_in_an_intrusive_list(void)
{
    append(BLOCK(1041, POSSIBLE));
    append(BLOCK(1043, POSSIBLE));
    append(BLOCK(1045, POSSIBLE));
}

/* What nobody finds: a limit of all three. */
static uintptr_t inverted, linked_by_xor;
static uint32_t compressed;

SITE_FN static void encode(void)
{
    inverted = masked(BLOCK(1051, LOST));
    uintptr_t one = (uintptr_t)BLOCK(1053, LOST), other = (uintptr_t)BLOCK(1055, LOST);
    linked_by_xor = one ^ other;
    /* By its distance from a variable, in units of 16 bytes. */
    compressed = (uint32_t)(((uintptr_t)BLOCK(1057, LOST) - (uintptr_t)&compressed) >> 4);
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    CASE(tag_low_bits);
    CASE(tag_high_bits);
    CASE(store_unaligned);
    CASE(store_unaligned_in_a_block);
    CASE(keep_in_an_intrusive_list);
    CASE(encode);
    judged();
    return (high_bits | high_and_low_bits | negative | low_bit | low_bits | inverted | linked_by_xor | compressed |
            (uintptr_t)unaligned[0].pointer) == 0;
}
