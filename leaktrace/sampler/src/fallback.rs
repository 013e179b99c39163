//! What takes the place of a real function that is not there.
//!
//! In: a function that no object behind this library defines. Out: one that does its work by others of this library.
//!
//! That happens where a plug-in brings the C++ runtime with it, loaded for itself alone (`RTLD_LOCAL`): its `operator new` is bound to
//! ours, which every library sees, but `RTLD_NEXT` does not find its runtime. It happens with musl, which has no `pvalloc`. C++'s
//! operators are made of `malloc` and `free`, as all runtimes make them; only where memory has run out, which has to throw, the
//! plug-in's own runtime is looked for.

use crate::functions::{
    ALIGNED_ALLOC, DELETE, FREE, Function, MALLOC, MEMALIGN, NEW, NEW_ALIGNED, NEW_ALIGNED_NOTHROW, NEW_ARRAY,
    NEW_ARRAY_ALIGNED, NEW_ARRAY_ALIGNED_NOTHROW, NEW_ARRAY_NOTHROW, NEW_NOTHROW, POSIX_MEMALIGN, PVALLOC, VALLOC,
    call, function, name, own, wrapper,
};
use crate::resolve;

const PAGE: usize = 4096;

macro_rules! operators {
    ($index:ident $($known:ident)*) => {
        match $index {
            $($known => operator::<$known>,)*
            _ => nothing,
        }
    };
}

/// What does the work of the function, and whether the entry of the function counts: these are counted by those that they call.
pub fn of(index: usize) -> (Function, bool) {
    let function: Function = match index {
        VALLOC | PVALLOC => pages,
        MEMALIGN | ALIGNED_ALLOC => aligned,
        DELETE.. => free,
        _ => operators! { index NEW NEW_ARRAY NEW_NOTHROW NEW_ARRAY_NOTHROW NEW_ALIGNED NEW_ARRAY_ALIGNED
        NEW_ALIGNED_NOTHROW NEW_ARRAY_ALIGNED_NOTHROW },
    };
    (function, false)
}

/// No memory.
unsafe extern "C-unwind" fn nothing(_: usize, _: usize, _: usize) -> usize {
    // SAFETY: the C library's errno.
    unsafe { *libc::__errno_location() = libc::ENOMEM };
    0
}

unsafe extern "C-unwind" fn free(block: usize, _: usize, _: usize) -> usize {
    // SAFETY: the program's own call.
    unsafe { call(wrapper(FREE), [block, 0, 0]) }
}

unsafe extern "C-unwind" fn aligned(alignment: usize, size: usize, _: usize) -> usize {
    let mut block = 0usize;
    let arguments = [&raw mut block as usize, alignment.max(size_of::<usize>()), size];
    // SAFETY: a place for the result, and a size.
    match unsafe { call(wrapper(POSIX_MEMALIGN), arguments) } as i32 {
        0 => block,
        // SAFETY: the C library's errno.
        error => unsafe {
            *libc::__errno_location() = error;
            0
        },
    }
}

unsafe extern "C-unwind" fn pages(size: usize, _: usize, _: usize) -> usize {
    match size.checked_next_multiple_of(PAGE) {
        // SAFETY: an alignment and a size.
        Some(size) => unsafe { aligned(PAGE, size, 0) },
        // SAFETY: takes nothing.
        None => unsafe { nothing(0, 0, 0) },
    }
}

/// The operators that allocate: each is an instance, since what to throw is looked for by its name.
unsafe extern "C-unwind" fn operator<const INDEX: usize>(size: usize, second: usize, third: usize) -> usize {
    // SAFETY: sizes and an alignment.
    let block = unsafe {
        match INDEX {
            NEW_ALIGNED.. => aligned(second, size.max(1), 0),
            _ => call(wrapper(MALLOC), [size.max(1), 0, 0]),
        }
    };
    if block != 0 {
        return block;
    }
    match resolve::aside(|| runtime(INDEX)) {
        // SAFETY: the program's own call. It asks the program's handler for memory, and throws if there is none.
        Some(real) => unsafe { call(real, [size, second, third]) },
        None if matches!(INDEX, NEW | NEW_ARRAY | NEW_ALIGNED | NEW_ARRAY_ALIGNED) => {
            // SAFETY: takes nothing. What C++ does where an exception cannot be thrown.
            unsafe { libc::abort() }
        }
        None => 0,
    }
}

/// What a list of the loaded objects begins with in every dynamic linker (`struct link_map` in link.h).
#[repr(C)]
struct Object {
    base: usize,
    name: *const u8,
    dynamic: usize,
    next: *const Object,
}

/// The function of a C++ runtime that is in the process, wherever: a library, or a part of the plug-in.
fn runtime(index: usize) -> Option<Function> {
    let (dlopen, dlsym, dlclose) = (resolve::dlopen()?, resolve::dlsym()?, resolve::dlclose()?);
    // SAFETY: the handle of the program itself is the first of all objects.
    let mut object = unsafe { dlopen(core::ptr::null(), libc::RTLD_LAZY) }.cast_const().cast::<Object>();
    while !object.is_null() {
        // SAFETY: nothing is loaded, and the count that this adds to an object is taken off again. Whoever called us keeps its own.
        let address = unsafe {
            let handle = match *(*object).name {
                // The program itself, whose symbols are found before ours anyway.
                0 => core::ptr::null_mut(),
                _ => dlopen((*object).name, libc::RTLD_LAZY | libc::RTLD_NOLOAD),
            };
            object = (*object).next;
            if handle.is_null() {
                continue;
            }
            let address = dlsym(handle, name(index).as_ptr());
            dlclose(handle);
            address
        };
        if let Some(real) = function(address).filter(|real| *real as usize != own(index) as usize) {
            return Some(real);
        }
    }
    None
}
