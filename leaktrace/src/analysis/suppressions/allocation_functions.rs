//! The functions that memcheck puts its own in the place of.
//!
//! In memcheck's stacks the allocation function is the innermost frame, in ours its caller. For each stack of ours a frame that
//! stands for an allocation function is therefore put before it. Which function it was is not recorded, so that this frame matches
//! the names of all of them.

/// As symbol tables have them: those of C, and C++'s `operator new` of both sizes of `size_t`, plain, nothrow and aligned.
const NAMES: [&str; 27] = [
    "malloc",
    "calloc",
    "realloc",
    "reallocarray",
    "memalign",
    "posix_memalign",
    "aligned_alloc",
    "valloc",
    "pvalloc",
    "_Znwm",
    "_Znam",
    "_ZnwmRKSt9nothrow_t",
    "_ZnamRKSt9nothrow_t",
    "_ZnwmSt11align_val_t",
    "_ZnamSt11align_val_t",
    "_ZnwmSt11align_val_tRKSt9nothrow_t",
    "_ZnamSt11align_val_tRKSt9nothrow_t",
    "_Znwj",
    "_Znaj",
    "__builtin_new",
    "__builtin_vec_new",
    "operator new(unsigned long)",
    "operator new[](unsigned long)",
    "operator new(unsigned long, std::nothrow_t const&)",
    "operator new[](unsigned long, std::nothrow_t const&)",
    "operator new(unsigned long, std::align_val_t)",
    "operator new[](unsigned long, std::align_val_t)",
];

/// The object that memcheck's own functions are in.
const OBJECT: &str = "/usr/libexec/valgrind/vgpreload_memcheck-amd64-linux.so";

/// Names by which memcheck's users know an allocation function's frame.
pub fn names() -> impl Iterator<Item = &'static [u8]> {
    NAMES.iter().map(|name| name.as_bytes())
}

/// The file that the frame is in.
pub fn object() -> &'static [u8] {
    OBJECT.as_bytes()
}

/// Whether a function, by a name of it, is such a function: C++'s operators call `malloc`, and are its caller.
pub fn is_one(name: &str) -> bool {
    NAMES.contains(&name)
}
