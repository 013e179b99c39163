/* A library that is written over through a mapping, which changes the file's times only when a page is first written to.

   The program: `rewriting LIBRARY OTHER` maps LIBRARY to write to it, and touches every page; then reads lines and answers
   each. `load`: what a child that loads LIBRARY and runs it ended with. `rewrite`: `done`, once LIBRARY has OTHER's content and
   is mapped no more.

   With -DALLOCATOR the library as it is at first: functions to be probed, at various places. With -DOTHER the other
   content: code in which a breakpoint that is not at the beginning of an instruction is a wrong number. */
#ifdef ALLOCATOR
#include <stddef.h>

static char pool[1 << 16];
static size_t used;

void *malloc(size_t size)
{
    void *block = pool + used;
    used += (size + 31) & ~(size_t)15;
    return block;
}

void *calloc(size_t count, size_t size)
{
    return malloc(count * size);
}

void *realloc(void *block, size_t size)
{
    return block ? block : malloc(size);
}

void free(void *block)
{
    static void *volatile last;
    last = block;
}

void run(void)
{
    free(realloc(calloc(1, 10), 20));
}
#elif defined(OTHER)
#include <stdlib.h>

/* Differences of a constant and the argument, which are 0. */
__asm__(".text\n"
        "numbers: .rept 20000\n"
        "movabs $0x0102030405060708, %rax\n"
        "sub %rdi, %rax\n"
        "or %rax, %rsi\n"
        ".endr\n"
        "mov %rsi, %rax\n"
        "ret\n");
long numbers(long constant, long differences);

void run(void)
{
    if (numbers(0x0102030405060708, 0))
        abort();
}
#else
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    int file = open(arguments[1], O_RDWR), other = open(arguments[2], O_RDONLY);
    struct stat status;
    fstat(other, &status);
    char *content = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    for (off_t page = 0; page < status.st_size; page += 4096)
        *(volatile char *)(content + page) = content[page];
    char line[16];
    setbuf(stdin, NULL);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, "rewrite\n") == 0) {
            read(other, content, status.st_size);
            munmap(content, status.st_size);
            puts("done");
        } else {
            pid_t child = fork();
            if (child == 0) {
                void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
                void (*run)(void) = library ? (void (*)(void))dlsym(library, "run") : NULL;
                if (!run)
                    _exit(1);
                run();
                _exit(0);
            }
            int ended;
            waitpid(child, &ended, 0);
            printf("%d\n", ended);
        }
        fflush(stdout);
    }
    return 0;
}
#endif
