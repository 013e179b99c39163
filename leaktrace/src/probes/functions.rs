//! Which functions allocate and free, and how each must be called to be understood.
//!
//! A name goes in, a [`Signature`] comes out: the [`Kind`] of call, which decides the BPF program that serves it, and
//! which of the function's C arguments that program has to read. Nothing here looks into a file or a process.
//!
//! The recorded size is always the size that the program asked for, never what the allocator rounds it up to: `pvalloc(1)`
//! is one byte. Sizes that are passed to freeing functions are not needed and not read.
//!
//! Left out on purpose, since they call functions of the table and would be counted twice or located less well: `strdup`,
//! `getline`, `asprintf`, C++ `operator new` of libstdc++ and libc++ (they call `malloc`; mimalloc 3 inlines its own into
//! `strdup`, so mimalloc's `strdup` is in the table), `reallocf` (a `realloc`, and a `free` if that fails).

mod kind;
mod names;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

pub use kind::{Family, Kind, Listed, Signature};

/// An allocator function that the user named: `NAME=LIKE`, or `NAME` alone if its ending is the name of a known function.
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

/// The known function that `name` is or ends with; the longest match wins, so that `my_posix_memalign` is not taken for
/// `memalign`.
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
    own: HashMap<Vec<u8>, Listed>,
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
        self.own.insert(name, Listed { signature, family });
    }

    /// What we know of the function of this name. The user's word counts more than ours.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<Listed> {
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

/// If `name` is the `mallocx` of a jemalloc with a prefix: that prefix, unless it is a well-known one. The object has such a
/// jemalloc only if it also has a freeing function with this prefix: [`prefixed_jemalloc_frees`].
#[must_use]
pub fn unusual_jemalloc_prefix(name: &[u8]) -> Option<&str> {
    let prefix = std::str::from_utf8(name).ok()?.strip_suffix("mallocx")?;
    (!prefix.is_empty() && !names::PREFIXES.contains(&prefix)).then_some(prefix)
}

/// If `name` ends like one of jemalloc's own freeing functions: the prefixes that the jemalloc may have.
pub fn prefixed_jemalloc_frees(name: &[u8]) -> impl Iterator<Item = &str> {
    let name = std::str::from_utf8(name).unwrap_or_default();
    ["sdallocx", "dallocx"].into_iter().filter_map(|ending| name.strip_suffix(ending)).filter(|it| !it.is_empty())
}

/// Whether a function of this name may throw a C++ exception instead of returning.
#[must_use]
pub fn may_throw(name: &str) -> bool {
    // An `operator new`, or a C++ function that the user named. One that does not throw has a `nothrow_t` parameter.
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
