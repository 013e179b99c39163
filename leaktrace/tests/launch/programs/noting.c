/* The program that goes with constructor.c. */
int note(const char *word);

int main(void)
{
    note("m");
    return 7;
}
