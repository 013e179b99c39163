//! What to probe in one object: an image goes in, its probes come out.
//!
//! This module combines the others: it looks symbols up in the table of functions, leaves out functions that only pass a
//! call on, and finds the probe site of each remaining function. The result records every decision, so that `-v` and
//! `doctor` can print it. Which processes map the object is not known here; [`choose`] selects which objects of a process
//! are worth probing.

mod annotations;
mod at_once;
mod error;
mod hidden;
mod linkage;
mod linker;
mod outside;
mod role;
mod runtime;
mod samples;
mod survey;
mod ways_out;

use std::fmt;
use std::ops::RangeInclusive;

use super::functions::{AllocSymbol, Kind, Table};
use super::image::Image;
use super::site::{self, Cost, Emulation, Fallback, Machine, Reason, Refusal, Site, Unproven};
use crate::elf::SymbolKind;
pub use annotations::{Annotation, AnnotationProbe};
pub use at_once::PlannedPoint;
pub use error::PlanError;
pub use linker::LinkerProbe;
pub use role::{Allocator, Role};
pub use runtime::Runtime;
pub use samples::{SamplePoint, SampleProbe, has_sample_points};
use survey::Candidate;

/// What to look for, and on what kernel.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions<'a> {
    /// A prefix of the C library's and jemalloc's names (`--symbols-prefix`), beside those we know.
    pub prefix: Option<&'a str>,
    /// Functions the user named (`--alloc-symbols`).
    pub symbols: &'a [AllocSymbol],
    /// What the running kernel emulates.
    pub emulation: Emulation,
    /// Whether probes go into the middle of functions where one of them sees a whole call.
    pub at_once: bool,
}

/// How allocations are seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Seen {
    /// By probes at the allocators' functions.
    #[default]
    Calls,
    /// By what programs tell of a sample that they draw themselves.
    Samples,
}

/// The probes of one object.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the object is.
    pub role: Role,
    /// The instruction set.
    pub machine: Machine,
    /// The build id, if it has one.
    pub build_id: Option<Vec<u8>>,
    /// One for each function, in the order of their addresses.
    pub probes: Vec<PlannedProbe>,
    /// Functions that are not probed, and why.
    pub skipped: Vec<Skipped>,
    /// An allocator whose symbols seem to be stripped from the object, if nothing was found to probe.
    pub hidden: Option<Allocator>,
    /// A runtime in the object that has its own heap.
    pub runtime: Option<Runtime>,
    /// If the object is a dynamic linker: where it reports the objects that it maps and unmaps.
    pub linker: Vec<LinkerProbe>,
    /// The functions by which the program says what is no leak.
    pub annotations: Vec<AnnotationProbe>,
    /// Places at which the program tells of a sample that it draws itself.
    pub samples: Vec<SampleProbe>,
    /// The address of the books of leaktrace's sampler, in the object's own numbering, if it has that. It tells of the frees of blocks
    /// too that it has drawn while nobody listened.
    pub sampler_state: Option<u64>,
    /// Whether the object is a library.
    pub is_library: bool,
    /// Whether the object has LeakSanitizer, which stops the threads of its own process by ptrace at the end.
    pub leak_sanitizer: bool,
}

/// One function to probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedProbe {
    /// All names of the function, as the symbol table has them; the first one determined its kind.
    pub names: Vec<String>,
    /// What the call does: which program serves it.
    pub kind: Kind,
    /// The entry, in the object's own numbering.
    pub address: u64,
    /// The entry's place in the file, in bytes.
    pub entry_offset: u64,
    /// Where the probe goes, relative to the entry.
    pub site: Site,
    /// The site's place in the file, in bytes: the offset to attach to, entry and return probe alike.
    pub offset: u64,
    /// The attach cookie: 0 for the program that expects arguments in their standard places, otherwise where they are.
    pub cookie: u64,
    /// Whether the function's own code calls or jumps to another probed function, or may do so. If not, a function that it
    /// calls may still reach one.
    pub calls_another: bool,
    /// For a function that may throw, the file offsets of its return instructions: it must not have a return probe, and
    /// probes on these instructions see its returns. Empty for all other functions.
    pub exits: Vec<u64>,
    /// The probes in the function's middle that see its calls instead, or why there are none.
    pub at_once: Result<Vec<PlannedPoint>, Unproven>,
}

impl PlannedProbe {
    /// Whether a return probe belongs to it.
    #[must_use]
    pub fn needs_return(&self) -> bool {
        self.kind.needs_return() && self.exits.is_empty()
    }

    /// If the probe is at a single-stepped entry: why it could not be moved.
    #[must_use]
    pub fn fallback(&self) -> Option<Fallback> {
        match (self.site.cost, self.site.reason) {
            (Cost::Stepped, Reason::Fallback(fallback)) => Some(fallback),
            _ => None,
        }
    }
}

/// A function that is not probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its names.
    pub names: Vec<String>,
    /// Why.
    pub why: Why,
}

/// Why a function is not probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It passes its calls on to the named function, where they are seen.
    Forwards(String),
    /// The symbol is an IFUNC: code that chooses the function, not the function.
    Resolver,
    /// No probe can be put on its first instruction.
    Refused(Refusal),
    /// It is the dynamic linker's own.
    DynamicLinker,
    /// It may throw, and not all of its return instructions are known.
    Throws,
    /// It is a Go function: Go's stacks move, and must not hold addresses that Go does not know.
    Go,
    /// Another function has the same code at the same address, and their calls cannot be told apart.
    Folded,
    /// What its note names is not in the file.
    NotThere,
    /// Its arguments are where they cannot be read.
    Arguments,
    /// The frees of what is told there are not all told.
    NoFrees,
}

impl Plan {
    /// Whether allocations are seen by its probes.
    #[must_use]
    pub fn tells_allocations(&self) -> bool {
        !self.probes.is_empty() || !self.samples.is_empty()
    }

    /// Leaves only the probes for one of the two ways to see allocations: every call, or what programs tell of a sample of their own.
    pub fn choose(&mut self, seen: Seen) {
        match seen {
            Seen::Calls => {
                self.samples.clear();
                // It passes every call on.
                if self.sampler_state.is_some() && self.is_library {
                    self.probes.clear();
                }
            }
            Seen::Samples => {
                self.probes.clear();
                self.annotations.clear();
                (self.hidden, self.runtime) = (None, None);
            }
        }
    }

    /// The functions by which the program says what is no leak and that are not probed, each with the reason.
    pub fn unseen_annotations(&self) -> impl Iterator<Item = String> + '_ {
        let is_one = |skipped: &&Skipped| skipped.names.iter().any(|name| name.starts_with("__lsan_"));
        self.skipped.iter().filter(is_one).map(|skipped| format!("{} ({})", skipped.names.join(", "), skipped.why))
    }
}

/// Plans the probes of the object with these bytes.
///
/// # Errors
///
/// If they are no image of a program or library that can be traced.
pub fn plan(bytes: &[u8], options: &PlanOptions<'_>) -> Result<Plan, PlanError> {
    let image = Image::parse(bytes)?;
    let mut table = Table::new(options.prefix, options.symbols);
    let (evidence, candidates) = survey::survey(&image, &mut table)?;
    let mut plan = Plan {
        role: evidence.role(&image),
        machine: image.machine(),
        build_id: image.build_id().map(<[u8]>::to_vec),
        probes: Vec::new(),
        skipped: Vec::new(),
        hidden: None,
        runtime: evidence.runtime().or_else(|| Runtime::by_note(&image)),
        linker: Vec::new(),
        annotations: Vec::new(),
        samples: Vec::new(),
        sampler_state: None,
        is_library: image.is_library(),
        leak_sanitizer: evidence.has_leak_sanitizer(),
    };
    if plan.role == Role::DynamicLinker {
        plan.linker = linker::find(&image);
        plan.skipped = candidates.into_iter().map(|it| Skipped { names: it.names, why: Why::DynamicLinker }).collect();
        return Ok(plan);
    }
    let (annotations, unseen) = annotations::find(&image)?;
    plan.annotations = annotations;
    plan.skipped.extend(unseen);
    let (samples, untold) = samples::find(&image);
    plan.sampler_state = samples::own_state(&image).filter(|_| !samples.is_empty());
    plan.samples = samples;
    plan.skipped.extend(untold);
    let (resolvers, mut functions): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|candidate| candidate.extent.kind == SymbolKind::Resolver);
    plan.skipped.extend(resolvers.into_iter().map(|it| Skipped { names: it.names, why: Why::Resolver }));

    survey::mark_overlaps(&image, &mut functions);
    let linkages = linkage::of(&image, &table, &functions);
    let mut own = Vec::new();
    for (mut function, linkage) in functions.into_iter().zip(linkages) {
        function.calls_another = linkage.calls;
        match linkage.forwards {
            Some(other) => plan.skipped.push(Skipped { names: function.names, why: Why::Forwards(other) }),
            None => own.push(function),
        }
    }
    mark_outside_branches(&image, &mut own, options.emulation);
    let ways_out = ways_out::of(&image, &own, evidence.looks_at_callers());
    let at_once = if options.at_once {
        at_once::of(&image, &own, options.emulation)
    } else {
        vec![Err(Unproven::Unwanted); own.len()]
    };
    for ((function, exits), at_once) in own.into_iter().zip(ways_out).zip(at_once) {
        // C functions have no dots in their names; Go functions always have one.
        if plan.runtime == Some(Runtime::Go) && function.names.iter().any(|name| name.contains('.')) {
            plan.skipped.push(Skipped { names: function.names, why: Why::Go });
            continue;
        }
        let Some(exits) = exits else {
            plan.skipped.push(Skipped { names: function.names, why: Why::Throws });
            continue;
        };
        match probe(&image, &function, options.emulation) {
            Ok(Some(probe)) => {
                let at_once = if exits.is_empty() { at_once } else { Err(Unproven::Throws) };
                plan.probes.push(PlannedProbe { exits, at_once, ..probe });
            }
            Ok(None) => {}
            Err(refusal) => plan.skipped.push(Skipped { names: function.names, why: Why::Refused(refusal) }),
        }
    }
    // Only programs are searched: if a program's allocator has no symbols, none of its allocations can be seen.
    if plan.probes.is_empty() && !image.is_library() {
        plan.hidden = hidden::find(&image);
    }
    Ok(plan)
}

/// Finds branches from other functions into the instructions between an entry and its moved probe, and marks those
/// functions.
fn mark_outside_branches(image: &Image<'_>, functions: &mut [Candidate], emulation: Emulation) {
    let mut left_behind: Vec<(usize, RangeInclusive<u64>)> = Vec::new();
    for (index, function) in functions.iter().enumerate() {
        let site = site::select(&function.function(image), function.known.signature, emulation);
        if let Some(site) = site.ok().filter(|site| site.offset > 0) {
            let entry = function.extent.address;
            left_behind.push((index, entry + 1..=entry + u64::from(site.offset)));
        }
    }
    // A site lies before any other symbol, so the ranges do not overlap; they are in order since the functions are.
    let ranges: Vec<_> = left_behind.iter().map(|(_, range)| range.clone()).collect();
    let entered = outside::entered(image, &ranges, |_| false);
    for ((index, _), entered) in left_behind.iter().zip(entered) {
        if let Some(address) = entered {
            functions[*index].enter(address);
        }
    }
}

/// The probe of one function; `None` if its code is not in the file.
fn probe(image: &Image<'_>, function: &Candidate, emulation: Emulation) -> Result<Option<PlannedProbe>, Refusal> {
    let signature = function.known.signature;
    let site = site::select(&function.function(image), signature, emulation)?;
    let address = function.extent.address;
    let (Some(entry_offset), Some(offset)) =
        (image.file_offset(address), image.file_offset(address + u64::from(site.offset)))
    else {
        return Ok(None);
    };
    Ok(Some(PlannedProbe {
        names: function.names.clone(),
        kind: signature.kind,
        address,
        entry_offset,
        site,
        offset,
        cookie: site.cookie(image.machine(), signature.kind),
        calls_another: function.calls_another,
        exits: Vec::new(),
        at_once: Err(Unproven::Unwanted),
    }))
}

/// The objects of one process to probe: all that have probes, the program first, then allocators, then the C library.
///
/// The C library is always among them: even in a process with another allocator, its own functions (`getline`, `dlopen`) are
/// called. An allocation call that passes through several objects is counted once, for the outermost.
pub fn choose<'a, T>(objects: impl IntoIterator<Item = (T, &'a Plan)>) -> Vec<(T, &'a Plan)> {
    let mut chosen: Vec<_> = objects.into_iter().filter(|(_, plan)| plan.tells_allocations()).collect();
    chosen.sort_by_key(|(_, plan)| match plan.role {
        Role::Program(_) => 0,
        Role::Allocator(_) => 1,
        Role::Libc(_) => 2,
        Role::CxxRuntime | Role::DynamicLinker | Role::None => 3,
    });
    chosen
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwards(other) => write!(f, "passes its calls on to {other}"),
            Self::Resolver => f.write_str("an IFUNC, which chooses the function and is not it"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::DynamicLinker => f.write_str("the dynamic linker's own"),
            Self::Go => f.write_str("a return probe on a Go function would crash the program"),
            Self::Folded => f.write_str("another function has the same code at the same address"),
            Self::Throws => f.write_str("it may throw exceptions, which a return probe would break"),
            Self::NotThere => f.write_str("its note names an address that has no place in the file"),
            Self::Arguments => f.write_str("its arguments are where they cannot be read"),
            Self::NoFrees => f.write_str("not all frees of what is told there can be seen"),
        }
    }
}
