//! What a block is called after: the innermost function of the program's own, since `operator new` and the library's containers
//! allocate everything.

use std::path::Path;

use crate::model::Frame;

/// Namespaces of the languages' libraries, and functions that allocate for others.
const LIBRARY: [&str; 9] = [
    "std::",
    "__gnu_cxx::",
    "__cxxabiv1::",
    "operator new",
    "core::",
    "alloc::",
    "__rustc::",
    "__rust_",
    "void* std::",
];
/// The C libraries' and the languages' own files.
const LIBRARIES: [&str; 8] =
    ["libc.so", "libc-2", "ld-linux", "ld-musl", "libstdc++.so", "libc++.so", "libgcc_s.so", "libm.so"];

/// `block from session_new (app.c:12)`, given the frames of its site, innermost first.
pub fn block_of<'a>(frames: impl Iterator<Item = &'a Frame>) -> String {
    let mut frames = frames.peekable();
    let innermost = frames.peek().copied();
    let Some(frame) = frames.find(|frame| is_own(frame)).or(innermost) else {
        return "block without a stack".to_owned();
    };
    format!("block from {}", place(frame))
}

/// `session_new (app.c:12)`, `session_new (libapp.so)`, `libapp.so+0x1234`.
pub fn place(frame: &Frame) -> String {
    let module = frame.module.as_deref().map(base_name);
    let Some(function) = &frame.function else {
        return match (module, frame.module_offset) {
            (Some(module), Some(offset)) => format!("{module}+{offset:#x}"),
            _ => frame.address.to_string(),
        };
    };
    match (&frame.file, frame.line, module) {
        (Some(file), Some(line), _) => format!("{function} ({}:{line})", base_name(file)),
        (Some(file), None, _) => format!("{function} ({})", base_name(file)),
        (None, _, Some(module)) => format!("{function} ({module})"),
        (None, _, None) => function.clone(),
    }
}

fn is_own(frame: &Frame) -> bool {
    let is_library = |module: &Path| LIBRARIES.iter().any(|name| base_name(module).starts_with(name));
    // A member's name may begin with its return type or, in Rust, with the type in angle brackets.
    let is_of_library = |function: &String| {
        let name = function.trim_start_matches('<');
        LIBRARY.iter().any(|prefix| name.starts_with(prefix))
    };
    !frame.module.as_deref().is_some_and(is_library) && !frame.function.as_ref().is_some_and(is_of_library)
}

fn base_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Address;

    fn frame(function: Option<&str>, file: Option<&str>, module: &str) -> Frame {
        Frame {
            function: function.map(str::to_owned),
            module: Some(module.into()),
            file: file.map(Into::into),
            line: file.map(|_| 12),
            module_offset: Some(0x1139),
            ..Frame::unresolved(Address(0x55))
        }
    }

    #[test]
    fn a_block_is_called_after_the_programs_own_function() {
        let stack = [
            frame(Some("operator new(unsigned long)"), None, "/lib/libstdc++.so.6"),
            frame(
                Some("std::__new_allocator<Node>::allocate(unsigned long)"),
                Some("/usr/include/alloc.h"),
                "/opt/app",
            ),
            frame(Some("Cache::add(int)"), Some("/src/cache.cc"), "/opt/app"),
            frame(Some("main"), Some("/src/main.cc"), "/opt/app"),
        ];
        assert_eq!(block_of(stack.iter()), "block from Cache::add(int) (cache.cc:12)");
        assert_eq!(block_of(stack[..1].iter()), "block from operator new(unsigned long) (libstdc++.so.6)");
        assert_eq!(block_of([frame(None, None, "/opt/app")].iter()), "block from app+0x1139");
        assert_eq!(block_of([].iter()), "block without a stack");
    }
}
