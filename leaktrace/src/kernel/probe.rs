//! One function of a file to be probed: which program serves it, and what the program needs to know.
//!
//! In: the plan of an object. Out: probes in the terms of the programs.

use std::collections::HashSet;

use leaktrace_common::abi;
use leaktrace_common::cookie::{self, Register};

use crate::probes::functions::Kind;
use crate::probes::plan::{self, Allocator, Annotation, AnnotationProbe, LinkerProbe, Plan, Role};

/// One function of a file to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The function's name, for messages.
    pub function: String,
    /// One of the `FUNCTION_` constants of `leaktrace_common::abi`.
    pub kind: u32,
    /// Where the probe goes: an offset in the file, bytes.
    pub offset: u64,
    /// Where the arguments and the entry's stack pointer are at this offset; `None` if in their standard places. In a dynamic
    /// linker, the distance to `_r_debug`.
    pub placement: Option<u64>,
    /// Whether the function is known to call no other probed one.
    pub leaf: bool,
    /// Whether probes at the function's exits see its returns: a return probe would break exceptions that it throws.
    pub has_exits: bool,
    /// Whether the function's own allocator calls it at a thread's end, for the blocks that it has kept for the thread.
    pub empties_thread_cache: bool,
}

impl Probe {
    /// One on a function's last instruction.
    pub fn exit(function: &str, offset: u64) -> Self {
        Self {
            function: function.to_owned(),
            kind: abi::FUNCTION_EXIT,
            offset,
            placement: cookie::encode([Register::RAX; 3], 0),
            leaf: false,
            has_exits: false,
            empties_thread_cache: false,
        }
    }

    /// The program that serves it, and the cookie that tells the program what it needs to know.
    pub fn program(&self) -> (&'static str, u64) {
        let cache = if self.empties_thread_cache { abi::COOKIE_THREAD_CACHE } else { 0 };
        match (self.kind, self.placement) {
            (abi::FUNCTION_MALLOC, None) if self.leaf && !self.has_exits => ("malloc", 0),
            (abi::FUNCTION_FREE, None) => ("free", cache),
            (abi::FUNCTION_LINKER, distance) => ("linker", distance.unwrap_or(0)),
            (function, placement) if self.is_annotation() => {
                let placement = placement.or(cookie::encode(STANDARD_ARGUMENTS, 0)).unwrap_or(0);
                ("annotation", placement | u64::from(function) << abi::COOKIE_FUNCTION_SHIFT)
            }
            (function, placement) => {
                let placement = placement.or(cookie::encode(STANDARD_ARGUMENTS, 0)).unwrap_or(0);
                let leaf = if self.leaf { abi::COOKIE_LEAF } else { 0 };
                let exits = if self.has_exits { abi::COOKIE_EXITS } else { 0 };
                ("call", placement | leaf | exits | cache | u64::from(function) << abi::COOKIE_FUNCTION_SHIFT)
            }
        }
    }

    pub fn frees(&self) -> bool {
        self.kind == abi::FUNCTION_FREE
    }

    pub fn exits(&self) -> bool {
        self.kind == abi::FUNCTION_EXIT
    }

    /// Whether it is where a dynamic linker reports changes.
    pub fn is_linkers(&self) -> bool {
        self.kind == abi::FUNCTION_LINKER
    }

    /// Whether the program says by the function what is no leak.
    pub fn is_annotation(&self) -> bool {
        matches!(self.kind, abi::FUNCTION_IGNORE | abi::FUNCTION_DISABLE | abi::FUNCTION_ENABLE)
    }

    /// Whether it is at the entry of a function that allocates.
    pub fn allocates(&self) -> bool {
        !self.frees() && !self.exits() && !self.is_linkers() && !self.is_annotation()
    }

    /// Whether a return probe is safe here and may be wanted: not where the function may throw, at exits, in a dynamic linker, or
    /// where a program says what is no leak.
    pub fn bears_return(&self) -> bool {
        !self.has_exits && !self.exits() && !self.is_linkers() && !self.is_annotation()
    }

    pub fn reallocates(&self) -> bool {
        matches!(self.kind, abi::FUNCTION_REALLOC | abi::FUNCTION_REALLOCARRAY | abi::FUNCTION_XALLOCX)
    }
}

/// Of the x86-64 calling convention; on other architectures the programs do not ask.
const STANDARD_ARGUMENTS: [Register; 3] = [Register::RDI, Register::RSI, Register::RDX];

/// The probes of an object.
pub fn of(plan: &Plan) -> Vec<Probe> {
    let functions = plan.probes.iter().filter_map(|probe| of_function(plan, probe));
    let others = plan.linker.iter().map(of_linker).chain(plan.annotations.iter().map(of_annotation));
    functions.chain(exits(plan)).chain(others).collect()
}

fn of_annotation(probe: &AnnotationProbe) -> Probe {
    Probe {
        function: probe.name.to_owned(),
        kind: match probe.annotation {
            Annotation::Ignore => abi::FUNCTION_IGNORE,
            Annotation::Disable => abi::FUNCTION_DISABLE,
            Annotation::Enable => abi::FUNCTION_ENABLE,
        },
        offset: probe.offset,
        placement: None,
        leaf: false,
        has_exits: false,
        empties_thread_cache: false,
    }
}

fn of_linker(probe: &LinkerProbe) -> Probe {
    Probe {
        function: "the dynamic linker".to_owned(),
        kind: abi::FUNCTION_LINKER,
        offset: probe.offset,
        placement: Some(probe.state_distance),
        leaf: false,
        has_exits: false,
        empties_thread_cache: false,
    }
}

fn of_function(plan: &Plan, probe: &plan::PlannedProbe) -> Option<Probe> {
    let kind = match probe.kind {
        Kind::Malloc | Kind::Memalign => abi::FUNCTION_MALLOC,
        Kind::Calloc => abi::FUNCTION_CALLOC,
        Kind::Realloc => abi::FUNCTION_REALLOC,
        Kind::ReallocArray => abi::FUNCTION_REALLOCARRAY,
        Kind::PosixMemalign => abi::FUNCTION_POSIX_MEMALIGN,
        Kind::Strdup => abi::FUNCTION_STRDUP,
        Kind::Xallocx => abi::FUNCTION_XALLOCX,
        Kind::Free => abi::FUNCTION_FREE,
    };
    let standard = probe.cookie == 0 && matches!(probe.kind, Kind::Malloc | Kind::Free);
    let placement = if standard { None } else { Some(placement(probe)?) };
    Some(Probe {
        function: probe.names.first().cloned().unwrap_or_default(),
        kind,
        offset: probe.offset,
        placement,
        leaf: is_leaf(plan.role, probe.kind, probe.calls_another),
        has_exits: !probe.exits.is_empty(),
        empties_thread_cache: probe.kind == Kind::Free && allocator(plan.role) == Some(Allocator::Glibc),
    })
}

/// Probes on the ways out of functions that may throw, each once: some share theirs.
fn exits(plan: &Plan) -> Vec<Probe> {
    let mut offsets = HashSet::new();
    let exits = plan.probes.iter().flat_map(|probe| probe.exits.iter().map(move |exit| (probe, *exit)));
    exits
        .filter(|(_, exit)| offsets.insert(*exit))
        .map(|(probe, exit)| Probe::exit(probe.names.first().map_or("", String::as_str), exit))
        .collect()
}

/// The cookie that says where the arguments are, in the order in which the programs read them: those of the plan stand at
/// their places in the function's signature, the programs leave out what they do not need.
fn placement(probe: &plan::PlannedProbe) -> Option<u64> {
    let [first, second, third] = probe.site.arguments;
    let read = match probe.kind {
        // Alignment, size: the size alone.
        Kind::Memalign => [second, third, third],
        // Where to, alignment, size: all but the alignment.
        Kind::PosixMemalign => [first, third, third],
        _ => [first, second, third],
    };
    cookie::encode(read, probe.site.stack_shift)
}

/// The allocator that an object of this role is.
fn allocator(role: Role) -> Option<Allocator> {
    match role {
        Role::Libc(allocator) | Role::Allocator(allocator) | Role::Program(allocator) => Some(allocator),
        Role::CxxRuntime | Role::DynamicLinker | Role::None => None,
    }
}

/// Whether a function of this allocator calls no other that is probed; a `realloc`, while it is given a block and a
/// size. Where we cannot know it does.
fn is_leaf(role: Role, kind: Kind, calls_another: bool) -> bool {
    // It takes its block off the books at the entry and gives it back at the return, whatever it calls. The programs leave out
    // returns of leaves that have nothing to book, and among those ask of `realloc` alone whether a block was taken: were this
    // one called a leaf, a call whose size is filtered or not sampled would lose the block.
    if kind == Kind::Xallocx {
        return false;
    }
    let Some(allocator) = allocator(role) else { return false };
    match allocator {
        // Its calls of malloc and free are for NULL and for size 0, and for large blocks: see `SMALL` in the programs.
        Allocator::Glibc if kind == Kind::Realloc => true,
        Allocator::Jemalloc | Allocator::Tcmalloc if kind == Kind::Realloc => !calls_another,
        _ if calls_another => false,
        Allocator::Glibc | Allocator::Jemalloc | Allocator::Tcmalloc | Allocator::Mimalloc => {
            matches!(kind, Kind::Malloc | Kind::Calloc | Kind::Memalign | Kind::PosixMemalign)
        }
        // Its calloc and memalign call malloc.
        Allocator::Musl => kind == Kind::Malloc,
        Allocator::Tbb | Allocator::Rpmalloc | Allocator::Snmalloc | Allocator::Other => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_a_block_and_is_no_realloc_is_never_a_leaf() {
        let allocators = [
            Allocator::Glibc,
            Allocator::Musl,
            Allocator::Jemalloc,
            Allocator::Tcmalloc,
            Allocator::Mimalloc,
            Allocator::Tbb,
            Allocator::Rpmalloc,
            Allocator::Snmalloc,
            Allocator::Other,
        ];
        for allocator in allocators {
            for role in [Role::Libc(allocator), Role::Allocator(allocator), Role::Program(allocator)] {
                for calls_another in [false, true] {
                    assert!(!is_leaf(role, Kind::Xallocx, calls_another), "{role:?}");
                }
            }
        }
    }

    #[test]
    fn only_a_plain_leaf_is_left_to_the_program_that_asks_no_cookie() {
        let malloc = Probe {
            function: "malloc".to_owned(),
            kind: abi::FUNCTION_MALLOC,
            offset: 0x1000,
            placement: None,
            leaf: true,
            has_exits: false,
            empties_thread_cache: false,
        };
        assert_eq!(malloc.program(), ("malloc", 0));
        let wrapper = Probe { leaf: false, ..malloc };
        let (program, cookie) = wrapper.program();
        assert_eq!((program, cookie & abi::COOKIE_LEAF), ("call", 0));
        assert_eq!(cookie::register(cookie, 0), Register::RDI);
    }
}
