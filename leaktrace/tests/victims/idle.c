/* Allocates nothing in its whole life. */
#include "victim.h"

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    report_all(NULL, 0);
    victim_end();
    return 0;
}
