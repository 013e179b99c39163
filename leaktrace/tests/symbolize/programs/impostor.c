/* Takes the place of another program: whoever reads its symbols for the other's addresses gets wrong names. */
#define WRONG(n) __attribute__((noinline)) int wrong_##n(int x) { return x + n; }
WRONG(0) WRONG(1) WRONG(2) WRONG(3) WRONG(4) WRONG(5) WRONG(6) WRONG(7)
__asm__(".text\n.globl wrong_everything\n.type wrong_everything, @function\nwrong_everything:\n"
        ".skip 65536, 0x90\n.size wrong_everything, . - wrong_everything\n");
int main(void) { return 0; }
