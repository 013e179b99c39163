//! Which candidates must find their return addresses unchanged, since they may throw exceptions or read the return address,
//! and at which instructions these candidates return.

use std::cell::OnceCell;
use std::collections::HashMap;

use super::survey::Candidate;
use crate::probes::functions::{Family, Kind, may_throw};
use crate::probes::image::{Image, Links};
use crate::probes::site::{self, Machine, Surroundings};

/// Longer names of functions are not followed through linkage tables, in bytes.
const MAX_NAME: usize = 256;
/// As much code as is looked at from one address.
const PIECE: usize = site::LONGEST_INSTRUCTION;
/// Prefixes of symbols that code defines or calls if it throws, or unwinds for others: mangled names of C++ and Rust, the
/// C++ ABI's functions, the unwinder's.
const SIGNS_OF_EXCEPTIONS: [&[u8]; 5] = [b"_Z", b"_R", b"__cxa_throw", b"__cxa_rethrow", b"_Unwind_"];

/// For each candidate the file offsets of its return instructions: empty if a return probe does no harm, `None` if it would
/// and not all return instructions are known. If an allocator `looks_at_callers`, as sanitizers do for their reports and for
/// suppressions that name functions, a return probe would hide the caller.
pub(super) fn of(image: &Image<'_>, candidates: &[Candidate], looks_at_callers: bool) -> Vec<Option<Vec<u64>>> {
    let around = Around {
        image,
        candidates,
        looks_at_callers,
        links: OnceCell::new(),
        symbols: OnceCell::new(),
        knows_exceptions: OnceCell::new(),
    };
    candidates.iter().map(|candidate| around.ways_out(candidate)).collect()
}

struct Around<'a, 'b> {
    image: &'b Image<'a>,
    candidates: &'b [Candidate],
    looks_at_callers: bool,
    links: OnceCell<Links<'a>>,
    symbols: OnceCell<HashMap<&'a [u8], u64>>,
    knows_exceptions: OnceCell<bool>,
}

impl Around<'_, '_> {
    fn ways_out(&self, candidate: &Candidate) -> Option<Vec<u64>> {
        // The name of a function that the user gave does not show whether it throws.
        let throws = candidate.names.iter().any(|name| may_throw(name))
            || candidate.known.family == Family::User && self.knows_exceptions();
        let kind = candidate.known.signature.kind;
        // The programs store either the return address or `posix_memalign`'s pointer, in the same field.
        let wanted = throws || self.looks_at_callers && kind != Kind::PosixMemalign;
        if !wanted || !kind.needs_return() {
            return Some(Vec::new());
        }
        if kind == Kind::PosixMemalign {
            return None;
        }
        let exits = self.exits(candidate);
        // Without known exits a return probe is used: it costs a frame in the sanitizer's report, its absence would cost
        // allocations in ours.
        if throws { exits } else { Some(exits.unwrap_or_default()) }
    }

    fn knows_exceptions(&self) -> bool {
        *self.knows_exceptions.get_or_init(|| {
            let is_sign = |name: &[u8]| SIGNS_OF_EXCEPTIONS.iter().any(|sign| name.starts_with(sign));
            self.image.symbols(MAX_NAME).any(|symbol| is_sign(symbol.name)) || self.links().names().any(is_sign)
        })
    }

    fn links(&self) -> &Links<'_> {
        self.links.get_or_init(|| self.image.links(MAX_NAME, |_| true))
    }

    fn exits(&self, candidate: &Candidate) -> Option<Vec<u64>> {
        if self.image.machine() != Machine::X86_64 {
            return None;
        }
        let exits = site::exits(candidate.extent.address, self)?;
        exits.into_iter().map(|address| self.image.file_offset(address)).collect()
    }
}

impl Surroundings for Around<'_, '_> {
    fn code(&self, address: u64) -> Option<&[u8]> {
        self.image.code(address, PIECE)
    }

    fn linked(&self, slot: u64) -> Option<u64> {
        let links = self.links();
        let symbols = self
            .symbols
            .get_or_init(|| self.image.symbols(MAX_NAME).map(|symbol| (symbol.name, symbol.extent.address)).collect());
        symbols.get(links.at(slot)?).copied()
    }

    fn is_watched(&self, entry: u64) -> bool {
        self.candidates.binary_search_by_key(&entry, |candidate| candidate.extent.address).is_ok()
    }
}
