//! One pass over an object's symbols: which functions there are to probe, and what lies in their way.

use std::collections::{BTreeMap, HashSet};

use super::error::{MAX_FUNCTIONS, PlanError};
use super::role::Evidence;
use crate::elf::SymbolKind;
use crate::probes::functions::{Family, Listed, Table, prefixed_jemalloc_frees, unusual_jemalloc_prefix};
use crate::probes::image::{Extent, Image};
use crate::probes::site::{self, Function};

/// Longer symbols need not be checked for overlaps, in bytes: no site is searched in them.
const MAX_SIZE: u64 = 64 << 10;

/// A function found by its names.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// All names at that address; the one that decided what the function does comes first.
    pub(super) names: Vec<String>,
    pub(super) known: Listed,
    pub(super) extent: Extent,
    /// The lowest address behind the entry at which other code enters the function.
    pub(super) entered_at: Option<u64>,
    /// Whether it calls another function that is probed, or may.
    pub(super) calls_another: bool,
}

impl Candidate {
    /// The function as the image shows it.
    pub(super) fn function<'a>(&self, image: &Image<'a>) -> Function<'a> {
        let size = usize::try_from(self.extent.size).unwrap_or(usize::MAX);
        let wanted = if size == 0 { site::LONGEST_INSTRUCTION } else { size };
        let code = image.code(self.extent.address, wanted).unwrap_or_default();
        Function {
            machine: image.machine(),
            address: self.extent.address,
            code,
            whole: size != 0 && code.len() == size,
            entered_at: self.entered_at,
        }
    }

    /// Other code enters the function at this address.
    pub(super) fn enter(&mut self, address: u64) {
        self.entered_at = Some(self.entered_at.map_or(address, |lowest| lowest.min(address)));
    }
}

/// The functions of `image` that `table` knows, in the order of their addresses, and what its symbols say about it.
///
/// A jemalloc built with a prefix of its own is recognised by its `mallocx`, and its names are added to the table.
pub(super) fn survey(image: &Image<'_>, table: &mut Table) -> Result<(Evidence, Vec<Candidate>), PlanError> {
    let mut evidence = Evidence::default();
    let (mut prefixes, mut freeing) = (Vec::new(), HashSet::new());
    for symbol in image.symbols(table.longest_name().max(MARK_LENGTH)) {
        evidence.see(symbol.name);
        if let Some(prefix) = unusual_jemalloc_prefix(symbol.name) {
            prefixes.push(prefix.to_owned());
        }
        freeing.extend(prefixed_jemalloc_frees(symbol.name).map(str::to_owned));
    }
    // An unrelated function of the program may have a name that ends in `mallocx`.
    prefixes.retain(|prefix| freeing.contains(prefix));
    prefixes.sort_unstable();
    prefixes.dedup();
    // One program may bundle several jemallocs; a symbol table with thousands of prefixes is hostile.
    for prefix in prefixes.iter().take(MAX_PREFIXES) {
        table.add_prefix(prefix);
    }
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    for symbol in image.symbols(table.longest_name()) {
        let Some(known) = table.find(symbol.name).filter(|_| symbol.extent.kind != SymbolKind::Label) else { continue };
        evidence.see_function(known.family, known.signature.kind.allocates());
        let function = found.entry(symbol.extent.address).or_insert(Found { extent: symbol.extent, names: Vec::new() });
        // Aliases may have different sizes; the largest covers all the code.
        function.extent.size = function.extent.size.max(symbol.extent.size);
        if symbol.extent.kind == SymbolKind::Resolver {
            function.extent.kind = SymbolKind::Resolver;
        }
        let name = String::from_utf8_lossy(symbol.name);
        if !function.names.iter().any(|(known_name, _)| *known_name == name) {
            function.names.push((name.into_owned(), known));
        }
        if found.len() > MAX_FUNCTIONS {
            return Err(PlanError::TooManyFunctions);
        }
    }
    let candidates = found.into_values().filter_map(|found| found.candidate(&evidence)).collect();
    Ok((evidence, candidates))
}

/// Room for the names that tell C libraries apart, in bytes.
const MARK_LENGTH: usize = 32;

const MAX_PREFIXES: usize = 16;

/// What the symbols at one address say.
struct Found {
    extent: Extent,
    names: Vec<(String, Listed)>,
}

impl Found {
    /// The function, if any of its names has its usual meaning in this object. Of several names the C library's determines
    /// the kind: `tc_new` may be an alias of `malloc`.
    fn candidate(mut self, evidence: &Evidence) -> Option<Candidate> {
        self.names.retain(|(_, known)| evidence.is_at_home(known.family));
        // Names that the user gave come first; then the names that people know: short, and without underscores.
        self.names.sort_by(|(a, known_a), (b, known_b)| {
            let rank = |name: &str, known: &Listed| {
                (known.family != Family::User, name.starts_with('_'), known.family, name.len())
            };
            rank(a, known_a).cmp(&rank(b, known_b)).then_with(|| a.cmp(b))
        });
        let known = self.names.first()?.1;
        let names = self.names.into_iter().map(|(name, _)| name).collect();
        Some(Candidate { names, known, extent: self.extent, entered_at: None, calls_another: true })
    }
}

/// Marks each candidate in which another symbol begins, or whose entry lies within another symbol.
pub(super) fn mark_overlaps(image: &Image<'_>, candidates: &mut [Candidate]) {
    for other in image.extents() {
        let begins_before = |candidate: &Candidate| candidate.extent.address < other.address;
        let at = candidates.partition_point(begins_before);
        // Candidates that begin before this symbol and may reach beyond its start.
        let reach = other.address.saturating_sub(MAX_SIZE);
        let near = candidates[..at].partition_point(|candidate| candidate.extent.address < reach);
        for candidate in &mut candidates[near..at] {
            if other.address - candidate.extent.address < candidate.extent.size {
                candidate.enter(other.address);
            }
        }
        // Candidates that this symbol covers: its branches may lead anywhere behind their entries.
        if other.kind == SymbolKind::Label {
            continue;
        }
        let end = other.address.saturating_add(other.size);
        let covered = candidates[at..].iter_mut().take_while(|candidate| candidate.extent.address < end);
        for candidate in covered.filter(|candidate| candidate.extent.address != other.address) {
            candidate.enter(candidate.extent.address + 1);
        }
    }
}
