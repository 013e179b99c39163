//! What an object is to the processes that map it: C library, allocator, program with its own allocator, or none of these.
//!
//! Decided from the names it defines and from its headers, nothing else.

use std::collections::BTreeSet;
use std::fmt;

use super::runtime::Runtime;
use crate::probes::functions::Family;
use crate::probes::image::Image;

/// Whose allocator it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Allocator {
    /// The GNU C library's.
    Glibc,
    /// musl's.
    Musl,
    /// jemalloc, whatever its prefix.
    Jemalloc,
    /// gperftools' or Google's tcmalloc.
    Tcmalloc,
    /// mimalloc.
    Mimalloc,
    /// oneTBB's scalable allocator.
    Tbb,
    /// rpmalloc.
    Rpmalloc,
    /// snmalloc.
    Snmalloc,
    /// One we do not know by name: it has `malloc` and `free`, or the user says so.
    Other,
}

/// What an object is to the processes that map it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The C library as a shared object.
    Libc(Allocator),
    /// A shared object that provides an allocator, linked or preloaded.
    Allocator(Allocator),
    /// A program that carries its allocator within: static, or linked with one.
    Program(Allocator),
    /// The C++ library, or a program that has it linked in: its `operator new` calls `malloc`, where the call is seen.
    CxxRuntime,
    /// glibc's dynamic linker. Up to glibc 2.30 it exports its own `malloc`, which it uses before the C library is loaded
    /// and which never frees: its blocks are the loader's, and every later call goes to the C library's.
    DynamicLinker,
    /// Nothing that allocates.
    None,
}

impl Role {
    /// The allocator in the object, if it has one.
    #[must_use]
    pub fn allocator(self) -> Option<Allocator> {
        match self {
            Self::Libc(allocator) | Self::Allocator(allocator) | Self::Program(allocator) => Some(allocator),
            Self::CxxRuntime | Self::DynamicLinker | Self::None => None,
        }
    }
}

/// Functions by which the C libraries are told from each other, and from other allocators in the same process.
const GLIBC_MARKS: &[&[u8]] = &[b"gnu_get_libc_version", b"__libc_setup_tls"];
const ANY_LIBC_MARK: &[u8] = b"__libc_start_main";

/// A function of LeakSanitizer, alone and within AddressSanitizer (`sanitizer/lsan_interface.h`).
const LEAK_SANITIZER_MARK: &[u8] = b"__lsan_do_leak_check";

/// Functions of the sanitizers' runtimes, which their compilers call at the start: each runtime records who called its
/// allocator.
const SANITIZER_MARKS: &[&[u8]] = &[b"__asan_init", b"__hwasan_init", b"__lsan_init", b"__msan_init", b"__tsan_init"];

/// What an object's symbols have shown so far.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Evidence {
    is_glibc: bool,
    is_libc: bool,
    is_jemalloc: bool,
    has_leak_sanitizer: bool,
    is_sanitizer: bool,
    runtime: Option<Runtime>,
    allocates: BTreeSet<Family>,
    frees: BTreeSet<Family>,
}

impl Evidence {
    /// Takes note of a defined symbol of any kind.
    pub(super) fn see(&mut self, name: &[u8]) {
        self.is_glibc |= GLIBC_MARKS.contains(&name);
        self.is_libc |= name == ANY_LIBC_MARK;
        self.is_jemalloc |= name.ends_with(b"sdallocx");
        self.has_leak_sanitizer |= name == LEAK_SANITIZER_MARK;
        self.is_sanitizer |= SANITIZER_MARKS.contains(&name);
        self.runtime = self.runtime.or_else(|| Runtime::by_symbol(name));
    }

    /// The runtime that is in there.
    pub(super) fn runtime(&self) -> Option<Runtime> {
        self.runtime
    }

    /// Whether LeakSanitizer is in there.
    pub(super) fn has_leak_sanitizer(&self) -> bool {
        self.has_leak_sanitizer
    }

    /// Whether the allocation functions use their return addresses.
    pub(super) fn looks_at_callers(&self) -> bool {
        self.is_sanitizer
    }

    /// Takes note of a known allocation function.
    pub(super) fn see_function(&mut self, family: Family, allocates: bool) {
        if allocates {
            self.allocates.insert(family)
        } else {
            self.frees.insert(family)
        };
    }

    /// Whether names of this family have, in this object, the meaning that the table gives them.
    pub(super) fn is_at_home(&self, family: Family) -> bool {
        match family {
            Family::User => true,
            Family::Overridden => self.is_at_home(Family::Mimalloc),
            // The operators of libstdc++ and libc++ call malloc, in whatever object they are linked. An allocator that comes
            // with `malloc` and operators usually inlines `malloc` into the operators.
            Family::Cxx => {
                !matches!(self.allocator(), None | Some(Allocator::Glibc | Allocator::Musl)) && self.replaces_malloc()
            }
            _ => self.allocates.contains(&family) && self.frees.contains(&family),
        }
    }

    fn replaces_malloc(&self) -> bool {
        [Family::C, Family::Tcmalloc, Family::Mimalloc, Family::Tbb, Family::Rpmalloc, Family::Snmalloc]
            .iter()
            .any(|family| self.is_at_home(*family))
    }

    /// Whose allocator is in there, if any.
    pub(super) fn allocator(&self) -> Option<Allocator> {
        let own = [
            (Family::Mimalloc, Allocator::Mimalloc),
            (Family::Tcmalloc, Allocator::Tcmalloc),
            (Family::Tbb, Allocator::Tbb),
            (Family::Rpmalloc, Allocator::Rpmalloc),
            (Family::Snmalloc, Allocator::Snmalloc),
        ];
        let named = own.iter().find(|(family, _)| self.is_at_home(*family)).map(|(_, allocator)| *allocator);
        if named.is_some() {
            return named;
        }
        let (c, prefixed) = (self.is_at_home(Family::C), self.is_at_home(Family::Prefixed));
        match (c || prefixed, self.is_jemalloc) {
            (true, true) => Some(Allocator::Jemalloc),
            (true, false) if c && self.is_glibc => Some(Allocator::Glibc),
            (true, false) if c && self.is_libc => Some(Allocator::Musl),
            (true, false) => Some(Allocator::Other),
            (false, _) if self.allocates.contains(&Family::User) || self.frees.contains(&Family::User) => {
                Some(Allocator::Other)
            }
            (false, _) => None,
        }
    }

    /// What the object is.
    pub(super) fn role(&self, image: &Image<'_>) -> Role {
        // Not musl's linker, which is also the C library and has no such name.
        if image
            .soname()
            .is_some_and(|name| name.starts_with(b"ld-linux") || name.starts_with(b"ld64") || name == b"ld.so.1")
        {
            return Role::DynamicLinker;
        }
        match self.allocator() {
            Some(allocator) if image.is_library() && self.is_libc => Role::Libc(allocator),
            Some(allocator) if image.is_library() => Role::Allocator(allocator),
            Some(allocator) => Role::Program(allocator),
            None if self.allocates.contains(&Family::Cxx) => Role::CxxRuntime,
            None => Role::None,
        }
    }
}

impl fmt::Display for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Glibc => "glibc",
            Self::Musl => "musl",
            Self::Jemalloc => "jemalloc",
            Self::Tcmalloc => "tcmalloc",
            Self::Mimalloc => "mimalloc",
            Self::Tbb => "oneTBB",
            Self::Rpmalloc => "rpmalloc",
            Self::Snmalloc => "snmalloc",
            Self::Other => "allocator",
        })
    }
}
