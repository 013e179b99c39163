/* LeakSanitizer's functions by which a program says what is no leak, as programs define them so that they need no sanitizer: weak, and
 * doing nothing. With a sanitizer (-DWITH_SANITIZER) they are its own. */
#ifndef ANNOTATIONS_H
#define ANNOTATIONS_H

#ifdef WITH_SANITIZER
void __lsan_ignore_object(const void *object);
void __lsan_disable(void);
void __lsan_enable(void);
#else
/* No two of them have the same code, and the compiler knows nothing of what they do. */
#define DEFINED __attribute__((weak, noinline, used))
DEFINED void __lsan_ignore_object(const void *object)
{
    __asm__ volatile("" : : "r"(object) : "memory");
}
DEFINED void __lsan_disable(void)
{
    __asm__ volatile("# disable" : : : "memory");
}
DEFINED void __lsan_enable(void)
{
    __asm__ volatile("# enable" : : : "memory");
}
#endif

#endif
