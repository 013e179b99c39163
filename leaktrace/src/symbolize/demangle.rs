//! Names as their authors wrote them: C++ (Itanium), Rust (legacy and v0); all others as they are.
//!
//! A traced program chooses its names, so what comes out is bounded and holds no control characters, which would write to
//! the terminal or break a line-based report.

use std::fmt::{self, Write};

/// A longer name is shown mangled and cut, bytes. Real templates reach some thousands.
const MAX_NAME: usize = 16 * 1024;

pub(super) fn demangle(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let name = &name[..name.floor_char_boundary(MAX_NAME)];
    let plain = rust(name).or_else(|| cpp(name)).or_else(|| cpp_without_types(name));
    printable(plain.as_deref().unwrap_or(name))
}

/// The name as it is, if it is short enough to be kept and is text.
pub(super) fn bounded(name: &[u8]) -> Option<String> {
    if name.len() > MAX_NAME { None } else { std::str::from_utf8(name).ok().map(str::to_owned) }
}

/// The class whose vtable has this name in a symbol table (Itanium C++ ABI, "Virtual Tables and RTTI").
pub(super) fn class_of_vtable(symbol: &[u8]) -> Option<String> {
    class(symbol.strip_prefix(b"_ZTV")?)
}

/// The class that calls itself so in its `std::type_info`.
pub(super) fn class_of_type_info(name: &[u8]) -> Option<String> {
    // Names that are compared by their addresses begin with a star.
    class(name.strip_prefix(b"*").unwrap_or(name))
}

/// A class by its mangled name, which is also the end of a variable's of that name.
fn class(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= MAX_NAME)?;
    cpp(&format!("_Z{name}")).filter(|class| !class.is_empty()).map(|class| printable(&class))
}

/// Whether the name has the form of a mangled name.
pub(super) fn is_mangled(name: &[u8]) -> bool {
    name.starts_with(b"_Z") || name.starts_with(b"_R")
}

fn rust(name: &str) -> Option<String> {
    // Without a hash a name of the older form is one of C++, where some parts have a meaning.
    if name.starts_with("_Z") && !name.contains("17h") {
        return None;
    }
    let mut out = Bounded::default();
    // The alternate form leaves the hash out.
    write!(out, "{:#}", rustc_demangle::try_demangle(name).ok()?).ok()?;
    Some(out.text)
}

fn cpp(name: &str) -> Option<String> {
    if !name.starts_with("_Z") {
        return None;
    }
    let symbol = cpp_demangle::Symbol::new(name).ok()?;
    let mut out = Bounded::default();
    symbol.structured_demangle(&mut out, &cpp_demangle::DemangleOptions::default()).ok()?;
    // cpp_demangle writes what stands around a pack of no arguments.
    Some(out.text.replace(", >", ">").replace("(&&)", "()").replace(", &&)", ")"))
}

/// A C++ function's name without its return type and parameters: some expressions in those are unknown to `cpp_demangle`,
/// as in `std::make_shared`.
fn cpp_without_types(name: &str) -> Option<String> {
    /// Ends of the name that are tried: each costs as much as the name is long.
    const TRIES: usize = 64;
    // The arguments of a template, and a name of several parts, end with an E.
    let ends = name.match_indices('E').map(|(at, end)| at + end.len());
    ends.rev().take(TRIES).find_map(|end| cpp(&name[..end]))
}

fn printable(name: &str) -> String {
    name.chars().map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

/// Substitutions can expand some hundred bytes to gigabytes: give up early.
#[derive(Default)]
struct Bounded {
    text: String,
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.text.len() + part.len() > MAX_NAME {
            return Err(fmt::Error);
        }
        self.text.push_str(part);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Right-hand sides as c++filt and rustfilt print them.
    #[test]
    fn names_read_as_written() {
        for (mangled, plain) in [
            ("main", "main"),
            (
                "_ZNSt6vectorIiSaIiEE17_M_realloc_insertIJiEEEvN9__gnu_cxx17__normal_iteratorIPiS1_EEDpOT_",
                "void std::vector<int, std::allocator<int> >::_M_realloc_insert<int>(__gnu_cxx::__normal_iterator<int*, std::vector<int, std::allocator<int> > >, int&&)",
            ),
            ("_ZN3FooC4Ev", "Foo::Foo()"),
            ("_ZN12_GLOBAL__N_13appE", "(anonymous namespace)::app"),
            (
                "_ZSt11make_uniqueI1SJEENSt8__detail9_MakeUniqIT_E15__single_objectEDpOT0_",
                "std::__detail::_MakeUniq<S>::__single_object std::make_unique<S>()",
            ),
            // Not as c++filt: its types have an expression that the crate does not know.
            (
                "_ZSt11make_sharedIN4shop4ItemEJEESt10shared_ptrINSt9enable_ifIXntsrSt8is_arrayIT_E5valueES5_E4typeEEDpOT0_",
                "std::make_shared<shop::Item>",
            ),
            ("_Znwm", "operator new(unsigned long)"),
            ("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"),
            ("_RNvCskwGfYPst2Cb_3foo16example_function", "foo::example_function"),
            ("_ZN3foo3barEv.cold", "foo::bar() [clone .cold]"),
            ("helper.constprop.0", "helper.constprop.0"),
            ("_Z", "_Z"),
            ("_Zgarbage", "_Zgarbage"),
        ] {
            assert_eq!(demangle(mangled.as_bytes()), plain);
        }
    }

    #[test]
    fn classes_are_named_by_their_vtables_and_by_themselves() {
        for (name, class) in [
            ("7Session", "Session"),
            ("N4shop4ItemE", "shop::Item"),
            ("St9exception", "std::exception"),
            ("N4shop5StackIiEE", "shop::Stack<int>"),
            ("N12_GLOBAL__N_16HiddenE", "(anonymous namespace)::Hidden"),
            ("Z4mainE5Local", "main::Local"),
        ] {
            assert_eq!(class_of_vtable(format!("_ZTV{name}").as_bytes()).as_deref(), Some(class));
            assert_eq!(class_of_type_info(format!("*{name}").as_bytes()).as_deref(), Some(class));
        }
        assert_eq!(class_of_vtable(b"_ZTI7Session"), None);
        for nonsense in [&b""[..], b"*", b"\xff\xfe", b"99Session", b"hello"] {
            assert_eq!(class_of_type_info(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn no_name_writes_to_the_terminal() {
        assert_eq!(demangle(b"evil\x1b[2Jname\n"), "evil\u{fffd}[2Jname\u{fffd}");
        assert_eq!(demangle(b"latin\xe9"), "latin\u{fffd}");
    }

    #[test]
    fn a_name_that_stands_for_gigabytes_is_shown_mangled() {
        // Each level is a template of two of the level before: 2^40 names.
        let mut bomb = "_Z1fI1AIiiE".to_owned();
        for level in 0..40 {
            let previous = if level == 0 { "S0_".to_owned() } else { format!("S{}_", base36(level)) };
            write!(bomb, "1AI{previous}{previous}E").expect("a string takes all");
        }
        bomb += "EvT_";
        assert!(demangle(bomb.as_bytes()).len() <= MAX_NAME);
    }

    fn base36(number: usize) -> String {
        const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let mut text = String::new();
        if number >= 36 {
            text.push(DIGITS[number / 36] as char);
        }
        text.push(DIGITS[number % 36] as char);
        text
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_grow(tail: Vec<u8>) {
            for prefix in [&b""[..], b"_Z", b"_ZN", b"_R", b"_RN"] {
                let name = [prefix, &tail].concat();
                proptest::prop_assert!(demangle(&name).len() <= MAX_NAME * 3);
            }
        }
    }
}
