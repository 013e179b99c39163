//! Which functions allocate and free, and how each must be called to be understood.
//!
//! A name goes in, a [`Signature`] comes out: the [`Kind`] of call, which decides the BPF program that serves it, and
//! which of the function's C arguments that program has to read. Nothing here looks into a file or a process.
//!
//! What is booked is always the size the program asked for, never what the allocator rounds it up to: `pvalloc(1)` is one
//! byte. Sizes that functions are told when freeing are not needed and not read.
//!
//! Absent on purpose, because they reach the functions below and would only be counted twice or understood less well:
//! `strdup`, `getline`, `asprintf`, C++ `operator new` of libstdc++ and libc++ (they call `malloc`; mimalloc 3 inlines its
//! own into `strdup`, so that one is here), `reallocf` (a `realloc`, and a `free` when that fails).

mod names;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// What a call does, as far as the books are concerned. One BPF program serves each kind.
///
/// The program reads some of three arguments, named A, B and C; at the probed instruction they are either where the first
/// three arguments are passed, or where the probe's cookie says (`leaktrace_common::cookie`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A = size; returns the block or NULL. `malloc`, `valloc`, `mallocx`, `operator new`.
    Malloc,
    /// A = count, B = size of each; returns the block or NULL. `calloc`.
    Calloc,
    /// A = block or NULL, B = size; returns the new block, or NULL with the old one untouched (freed if the size was 0).
    Realloc,
    /// A = block or NULL, B = count, C = size of each; otherwise as [`Kind::Realloc`].
    ReallocArray,
    /// B = size (A would be the alignment, which is not read); returns the block or NULL. `memalign`, `aligned_alloc`.
    Memalign,
    /// A = address of the pointer to fill in, C = size (B would be the alignment); returns 0 on success, and only then
    /// has written through A.
    PosixMemalign,
    /// No argument is read; returns a string or NULL, whose size is its length and its terminator. `strdup`.
    Strdup,
    /// A = block, B = size (C would be what is welcome beyond, which is not read); resizes in place and returns the usable
    /// size, at least B if it succeeded, less if it could not grow. jemalloc's `xallocx`.
    Xallocx,
    /// A = block or NULL. Freed when the call begins, so no return probe: before it returns, another thread may already
    /// own the address. `free`, `dallocx`, `operator delete`.
    Free,
}

impl Kind {
    /// Every kind, for whoever needs one program each.
    pub const ALL: [Self; 9] = [
        Self::Malloc,
        Self::Calloc,
        Self::Realloc,
        Self::ReallocArray,
        Self::Memalign,
        Self::PosixMemalign,
        Self::Strdup,
        Self::Xallocx,
        Self::Free,
    ];

    /// Which of A, B and C the program reads.
    #[must_use]
    pub const fn reads(self) -> [bool; 3] {
        match self {
            Self::Malloc | Self::Free => [true, false, false],
            Self::Calloc | Self::Realloc | Self::Xallocx => [true, true, false],
            Self::ReallocArray => [true, true, true],
            Self::Memalign => [false, true, false],
            Self::PosixMemalign => [true, false, true],
            Self::Strdup => [false, false, false],
        }
    }

    /// Whether the books need to know what the call returned, or what it left in memory when it did.
    #[must_use]
    pub const fn needs_return(self) -> bool {
        !matches!(self, Self::Free)
    }

    /// Whether the call can hand out a block.
    #[must_use]
    pub const fn allocates(self) -> bool {
        !matches!(self, Self::Free | Self::Xallocx)
    }
}

/// Which C arguments (counted from 0) are A, B and C of a function of some [`Kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature {
    /// What the call does.
    pub kind: Kind,
    positions: [u8; 3],
}

impl Signature {
    /// A function whose A, B and C are its first three arguments but for `by` others before them.
    const fn shifted(kind: Kind, by: u8) -> Self {
        Self { kind, positions: [by, by + 1, by + 2] }
    }

    /// The positions of A, B and C, also of those that are not read.
    #[must_use]
    pub const fn positions(&self) -> [u8; 3] {
        self.positions
    }

    /// The positions of the arguments that are read.
    pub fn read_positions(&self) -> impl Iterator<Item = u8> + use<> {
        self.positions.into_iter().zip(self.kind.reads()).filter(|(_, read)| *read).map(|(position, _)| position)
    }
}

/// Whose function it is. Names of a family mean what they say only where the family is at home: an executable's own
/// `cfree` or `valloc` without a `malloc` beside it is somebody's helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// The C library's names, which every replacement of `malloc` takes over, and jemalloc's `mallocx` and its like.
    C,
    /// `operator new` and `operator delete`, mangled.
    Cxx,
    /// The C names behind a prefix: jemalloc as `je_`, `_rjem_` and whatever else it was built with.
    Prefixed,
    /// gperftools' `tc_*` and the names of Google's newer tcmalloc.
    Tcmalloc,
    /// `mi_*`.
    Mimalloc,
    /// Names that only mimalloc takes over from others, and implements by itself: `strdup`, `vfree`.
    Overridden,
    /// oneTBB's `scalable_*`.
    Tbb,
    /// rpmalloc's `rp*`.
    Rpmalloc,
    /// snmalloc's C and Rust interfaces, `sn_*`.
    Snmalloc,
    /// What the user named.
    User,
}

/// A function in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Which arguments mean what.
    pub signature: Signature,
    /// Whose name it is.
    pub family: Family,
}

/// An allocator function that the user named: `NAME=LIKE`, or `NAME` alone where its ending says what it is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocSymbol {
    /// The symbol's name as the object's symbol table has it (mangled).
    pub name: String,
    /// How it is called.
    pub signature: Signature,
}

/// Why an [`AllocSymbol`] could not be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocSymbolError {
    /// No symbol name.
    #[error("an allocator symbol needs a name")]
    Empty,
    /// The name after `=` is none we know.
    #[error(
        "`{0}` is no allocation function we know: write NAME=LIKE with LIKE such as malloc, calloc, realloc or free"
    )]
    UnknownLike(String),
    /// No `=`, and the name does not end like a function we know.
    #[error("cannot tell what `{0}` is like: write {0}=LIKE with LIKE such as malloc, calloc, realloc or free")]
    Unguessable(String),
}

impl FromStr for AllocSymbol {
    type Err = AllocSymbolError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, like) = match text.split_once('=') {
            Some((name, like)) => (name.trim(), Some(like.trim())),
            None => (text.trim(), None),
        };
        if name.is_empty() {
            return Err(AllocSymbolError::Empty);
        }
        let signature = match like {
            Some(like) => names::fixed(like).ok_or_else(|| AllocSymbolError::UnknownLike(like.to_owned()))?.signature,
            None => guess(name).ok_or_else(|| AllocSymbolError::Unguessable(name.to_owned()))?,
        };
        Ok(Self { name: name.to_owned(), signature })
    }
}

impl fmt::Display for AllocSymbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.signature.kind)
    }
}

/// The function whose name `name` is or ends with; the longest such, so that `my_posix_memalign` is no `memalign`.
fn guess(name: &str) -> Option<Signature> {
    let whole = names::fixed(name).map(|known| known.signature);
    whole.or_else(|| {
        let endings = names::C.iter().chain(names::JEMALLOC).filter(|(base, _)| name.ends_with(base));
        endings.max_by_key(|(base, _)| base.len()).map(|(_, signature)| *signature)
    })
}

/// The functions to look for in an object: the fixed ones, those behind prefixes, and the user's.
#[derive(Debug, Clone)]
pub struct Table {
    own: HashMap<Vec<u8>, Known>,
    longest: usize,
}

impl Table {
    /// The fixed names, `names` of the user, and the C library's and jemalloc's behind each of `prefixes`.
    #[must_use]
    pub fn new<'a>(prefixes: impl IntoIterator<Item = &'a str>, names: &[AllocSymbol]) -> Self {
        let mut table = Self { own: HashMap::new(), longest: names::LONGEST };
        for prefix in prefixes {
            table.add_prefix(prefix);
        }
        for symbol in names {
            table.add(symbol.name.clone().into_bytes(), symbol.signature, Family::User);
        }
        table
    }

    /// Looks for the C library's and jemalloc's names behind `prefix`, too.
    pub fn add_prefix(&mut self, prefix: &str) {
        for (base, signature) in names::C.iter().chain(names::JEMALLOC) {
            self.add(format!("{prefix}{base}").into_bytes(), *signature, Family::Prefixed);
        }
    }

    fn add(&mut self, name: Vec<u8>, signature: Signature, family: Family) {
        self.longest = self.longest.max(name.len());
        self.own.insert(name, Known { signature, family });
    }

    /// What we know of the function of this name. The user's word counts more than ours.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<Known> {
        if name.len() > self.longest {
            return None;
        }
        self.own.get(name).copied().or_else(|| names::fixed(std::str::from_utf8(name).ok()?))
    }

    /// No name in the table is longer than this, in bytes: what is longer need not be read to its end.
    #[must_use]
    pub fn longest_name(&self) -> usize {
        self.longest
    }
}

/// The prefix with which a jemalloc may have been built, if `name` is its `mallocx`; the plain and the well-known ones are
/// `None`. It has if there are also functions of jemalloc's that free: [`prefixed_jemalloc_frees`].
#[must_use]
pub fn unusual_jemalloc_prefix(name: &[u8]) -> Option<&str> {
    let prefix = std::str::from_utf8(name).ok()?.strip_suffix("mallocx")?;
    (!prefix.is_empty() && !names::PREFIXES.contains(&prefix)).then_some(prefix)
}

/// The prefixes with which `name` may be a function by which jemalloc frees, and nothing else has.
pub fn prefixed_jemalloc_frees(name: &[u8]) -> impl Iterator<Item = &str> {
    let name = std::str::from_utf8(name).unwrap_or_default();
    ["sdallocx", "dallocx"].into_iter().filter_map(|ending| name.strip_suffix(ending)).filter(|it| !it.is_empty())
}

/// Whether a function of this name may throw a C++ exception instead of returning.
#[must_use]
pub fn may_throw(name: &str) -> bool {
    // An `operator new`, or a C++ function that the user named: C++ says it by the type of a parameter if it does not.
    name.starts_with("_Z") && !name.contains("nothrow_t") || names::THROWING.contains(&name)
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malloc => "malloc",
            Self::Calloc => "calloc",
            Self::Realloc => "realloc",
            Self::ReallocArray => "reallocarray",
            Self::Memalign => "memalign",
            Self::PosixMemalign => "posix_memalign",
            Self::Strdup => "strdup",
            Self::Xallocx => "xallocx",
            Self::Free => "free",
        })
    }
}

#[cfg(test)]
mod tests;
