/* Library functions that allocate through malloc: each leak is one block, booked to the program's function. */
#include "victim.h"

#include <fcntl.h>

#define ROUNDS 12

enum { STRDUP, STRNDUP, ASPRINTF, GETLINE, SITES };

/* asprintf and getline may allocate and free more on the way than they return. */
static struct site sites[SITES] = {
    SITE(leak_strdup),
    SITE(leak_strndup),
    SITE_OUTSTANDING_ONLY(leak_asprintf),
    SITE_OUTSTANDING_ONLY(leak_getline),
};

static void *kept[SITES][ROUNDS];
static char text[2048];

SITE_FN static char *leak_strdup(const char *s)
{
    char *p = strdup(s);
    KEEP_FRAME();
    return p;
}

SITE_FN static char *leak_strndup(const char *s, size_t n)
{
    char *p = strndup(s, n);
    KEEP_FRAME();
    return p;
}

SITE_FN static char *leak_asprintf(int width)
{
    char *p = NULL;
    victim_require(asprintf(&p, "%0*d", width, 7) == width, "asprintf failed");
    KEEP_FRAME();
    return p;
}

/* getline's buffer is as long as it says through its second argument. */
SITE_FN static char *leak_getline(FILE *from, size_t *n)
{
    char *line = NULL;
    *n = 0;
    victim_require(getline(&line, n, from) > 0, "getline failed");
    KEEP_FRAME();
    return line;
}

int main(int argc, char **argv)
{
    victim_begin(argc, argv);
    memset(text, 'x', sizeof text - 1);

    /* Lines of 10, 110, 210, ... characters for getline. */
    FILE *lines = tmpfile();
    victim_require(lines != NULL, "no temporary file");
    for (int i = 0; i < ROUNDS; i++)
        fprintf(lines, "%.*s\n", 10 + 100 * i, text);
    rewind(lines);

    for (int i = 0; i < ROUNDS; i++) {
        size_t n = 50 + 100 * (size_t)i;
        kept[STRDUP][i] = leak_strdup(text + sizeof text - 1 - n);
        book(&sites[STRDUP], n + 1);
        kept[STRNDUP][i] = leak_strndup(text, n);
        book(&sites[STRNDUP], n + 1);
        kept[ASPRINTF][i] = leak_asprintf((int)n);
        book(&sites[ASPRINTF], n + 1);
        kept[GETLINE][i] = leak_getline(lines, &n);
        book(&sites[GETLINE], n);
    }
    /* The stream's own memory goes with it. */
    fclose(lines);
    for (int s = 0; s < SITES; s++)
        report_site(&sites[s]);
    victim_end();
    return 0;
}
