/* To be loaded before a server's libraries: for each connection that it accepts a block is lost (3001 bytes), and one kept (3003). */
#define _GNU_SOURCE
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "leaky.h"

__attribute__((visibility("default"))) int accept4(int listening, struct sockaddr *from, socklen_t *length, int flags)
{
    int connection = (int)syscall(SYS_accept4, listening, from, length, flags);
    if (connection >= 0) {
        lose(malloc, 3001);
        keep(malloc, 3003);
    }
    return connection;
}
