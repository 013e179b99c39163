/* Cannot be stopped until a line is in this file: its child by vfork reads it.
 *
 *     vforking FILE
 */
#define _GNU_SOURCE 1
#include <fcntl.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char byte;
    if (argc < 2)
        return 1;
    if (vfork() == 0) {
        int file = open(argv[1], O_RDONLY);
        _exit(file < 0 || read(file, &byte, 1) != 1);
    }
    return 9;
}
