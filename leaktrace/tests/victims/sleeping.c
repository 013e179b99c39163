/* A process that does nothing but sleep. */
#include <unistd.h>

int main(void)
{
    sleep(1000);
    return 0;
}
