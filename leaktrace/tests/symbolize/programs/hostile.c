/* Says where the function in hostile.S is. */
#include "report.h"
void deep(void);
int main(void) {
    say("deep", (void *)deep);
    ready();
    while (step())
        ready();
    return 0;
}
