//! One function of a file to be probed: which program serves it, and what the program needs to know.
//!
//! In: the plan of an object. Out: probes in the terms of the programs.

use std::collections::HashSet;

use leaktrace_common::cookie::{self, Register};
use leaktrace_common::drawn::SampleArguments;
use leaktrace_common::{abi, whole};

use crate::probes::functions::Kind;
use crate::probes::plan::{
    self, Allocator, Annotation, AnnotationProbe, LinkerProbe, Plan, PlannedPoint, Role, SamplePoint, SampleProbe,
};
use crate::probes::site::{Counts, Place, Unproven, View};

/// One function of a file to be probed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// Where in the file the counter of tracers is that the kernel raises while the probe is there.
    pub semaphore: Option<u64>,
    /// Where a program that tells of a sample has what it tells. Its placement then is the number that the kernel room has given these.
    pub arguments: Option<SampleArguments>,
}

impl Probe {
    /// One on a function's last instruction.
    pub fn exit(function: &str, offset: u64) -> Self {
        Self {
            function: function.to_owned(),
            kind: abi::FUNCTION_EXIT,
            offset,
            placement: cookie::encode([Register::RAX; 3], 0),
            ..Self::default()
        }
    }

    /// The program that serves it, and the cookie that tells the program what it needs to know.
    pub fn program(&self) -> (&'static str, u64) {
        let cache = if self.empties_thread_cache { abi::COOKIE_THREAD_CACHE } else { 0 };
        match (self.kind, self.placement) {
            (abi::FUNCTION_MALLOC, None) if self.leaf && !self.has_exits => ("malloc", 0),
            (abi::FUNCTION_FREE, None) => ("free", cache),
            (function, placement) if self.is_inside() => {
                ("allocated", placement.unwrap_or(0) | u64::from(function) << abi::COOKIE_FUNCTION_SHIFT)
            }
            (abi::FUNCTION_LINKER, distance) => ("linker", distance.unwrap_or(0)),
            (function, number) if self.tells_sample() => {
                ("sample", number.unwrap_or(0) | u64::from(function) << abi::COOKIE_FUNCTION_SHIFT)
            }
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

    /// Whether the program tells there of a sample that it draws itself.
    pub fn tells_sample(&self) -> bool {
        matches!(self.kind, abi::FUNCTION_SAMPLED | abi::FUNCTION_SAMPLE_FREED)
    }

    /// Whether it is in the middle of a function that allocates, and the returns of such calls are not seen.
    pub fn is_inside(&self) -> bool {
        matches!(self.kind, whole::FUNCTION_ALLOCATED | whole::FUNCTION_BEGUN | whole::FUNCTION_ENDED)
    }

    /// Whether it sees the end of a call that another one saw begin.
    pub fn ends(&self) -> bool {
        self.kind == whole::FUNCTION_ENDED
    }

    /// Whether it is at the entry of a function that allocates, or where all is as at the entry.
    pub fn allocates(&self) -> bool {
        !(self.is_inside()
            || self.frees()
            || self.exits()
            || self.is_linkers()
            || self.is_annotation()
            || self.tells_sample())
    }

    /// Whether a return probe is safe here and may be wanted: not where the function may throw, at exits, in a dynamic linker, or
    /// where a program says what is no leak or tells of a sample.
    pub fn bears_return(&self) -> bool {
        !(self.has_exits
            || self.is_inside()
            || self.exits()
            || self.is_linkers()
            || self.is_annotation()
            || self.tells_sample())
    }

    pub fn reallocates(&self) -> bool {
        matches!(self.kind, abi::FUNCTION_REALLOC | abi::FUNCTION_REALLOCARRAY | abi::FUNCTION_XALLOCX)
    }
}

/// Of the x86-64 calling convention; on other architectures the programs do not ask.
const STANDARD_ARGUMENTS: [Register; 3] = [Register::RDI, Register::RSI, Register::RDX];

/// The probes of an object.
pub fn of(plan: &Plan) -> Vec<Probe> {
    let functions = plan.probes.iter().flat_map(|probe| match at_once(plan, probe) {
        Ok(points) => {
            points.iter().filter_map(|point| of_point(probe.names.first().map_or("", String::as_str), point)).collect()
        }
        Err(_) => of_function(plan, probe).into_iter().collect::<Vec<_>>(),
    });
    let others = plan.linker.iter().map(of_linker).chain(plan.annotations.iter().map(of_annotation));
    let others = others.chain(plan.samples.iter().map(of_sample));
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
        ..Probe::default()
    }
}

fn of_sample(probe: &SampleProbe) -> Probe {
    let (name, kind) = match probe.point {
        SamplePoint::Alloc => ("otel_memory:alloc", abi::FUNCTION_SAMPLED),
        SamplePoint::Free => ("otel_memory:free", abi::FUNCTION_SAMPLE_FREED),
    };
    Probe {
        function: name.to_owned(),
        kind,
        offset: probe.offset,
        semaphore: probe.semaphore,
        arguments: Some(probe.arguments),
        ..Probe::default()
    }
}

fn of_linker(probe: &LinkerProbe) -> Probe {
    Probe {
        function: "the dynamic linker".to_owned(),
        kind: abi::FUNCTION_LINKER,
        offset: probe.offset,
        placement: Some(probe.state_distance),
        ..Probe::default()
    }
}

/// The probes in the middle of a function that see its calls, or why its calls take two.
///
/// # Errors
/// That reason.
pub fn at_once<'a>(plan: &Plan, probe: &'a plan::PlannedProbe) -> Result<&'a [PlannedPoint], Unproven> {
    let points = probe.at_once.as_ref().map_err(|why| *why)?;
    // Nothing is remembered of a call before its probe, so none may be nested in it.
    if is_leaf(plan.role, probe.kind, probe.calls_another) { Ok(points) } else { Err(Unproven::CallsAnother) }
}

fn of_point(function: &str, planned: &PlannedPoint) -> Option<Probe> {
    let point = &planned.point;
    let none = Register::RAX;
    let (kind, registers, size_at, counts) = match point.view {
        View::Call { size: Place::Register(size), result, counts } => {
            (whole::FUNCTION_ALLOCATED, [size, result, none], 0, counts)
        }
        View::Call { size: Place::Slot(below), result, counts } => {
            (whole::FUNCTION_ALLOCATED, [none, result, none], below, counts)
        }
        View::Begin { size } => (whole::FUNCTION_BEGUN, [size, none, none], 0, Counts::Always),
        View::End { result, counts } => (whole::FUNCTION_ENDED, [none, result, none], 0, counts),
        View::Entry { size } => (abi::FUNCTION_MALLOC, [size, none, none], 0, Counts::Always),
    };
    let if_zero = match counts {
        Counts::Always => 0,
        Counts::IfZero(false) => whole::COOKIE_IF_NOT_ZERO,
        Counts::IfZero(true) => whole::COOKIE_IF_ZERO,
    };
    let frame_at = point.frame_pointer.unwrap_or(0);
    let placement = cookie::encode(registers, point.stack_shift)?
        | slot(frame_at)? << whole::COOKIE_FRAME_SHIFT
        | slot(size_at)? << whole::COOKIE_SIZE_SHIFT
        | if_zero;
    Some(Probe {
        function: format!("{}+{:#x}", function, point.offset),
        kind,
        offset: planned.offset,
        placement: Some(placement),
        leaf: true,
        ..Probe::default()
    })
}

/// How a cookie tells a distance in bytes.
fn slot(bytes: u64) -> Option<u64> {
    (bytes.is_multiple_of(8) && bytes >> 3 < 1 << whole::COOKIE_SLOT_BITS).then_some(bytes >> 3)
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
        empties_thread_cache: probe.kind == Kind::Free && plan.role.allocator() == Some(Allocator::Glibc),
        ..Probe::default()
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

/// Whether a function of this allocator calls no other that is probed; a `realloc`, while it is given a block and a
/// size. Where we cannot know it does.
fn is_leaf(role: Role, kind: Kind, calls_another: bool) -> bool {
    // It takes its block off the books at the entry and gives it back at the return, whatever it calls. The programs leave out
    // returns of leaves that have nothing to book, and among those ask of `realloc` alone whether a block was taken: were this
    // one called a leaf, a call whose size is filtered or not sampled would lose the block.
    if kind == Kind::Xallocx {
        return false;
    }
    let Some(allocator) = role.allocator() else { return false };
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
    use crate::probes::site::Point;

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

    /// The probe that sees this in the middle of a `malloc`.
    fn inside(view: View, stack_shift: u64) -> Probe {
        let point = Point { offset: 0x10, view, stack_shift, frame_pointer: (stack_shift > 0).then_some(16) };
        of_point("malloc", &PlannedPoint { point, offset: 0x1010 }).unwrap()
    }

    #[test]
    fn no_return_is_probed_where_the_stack_pointer_has_moved() {
        let (size, result, counts) = (Register::RBX, Register::RAX, Counts::IfZero(true));
        let views = [
            View::Call { size: Place::Register(size), result, counts },
            View::Call { size: Place::Slot(24), result, counts },
            View::Begin { size },
            View::End { result, counts },
        ];
        for view in views {
            let probe = inside(view, 40);
            assert!(!probe.bears_return() && !probe.allocates() && probe.program().0 == "allocated", "{view:?}");
        }
        let entry = inside(View::Entry { size }, 0);
        assert!(entry.bears_return() && entry.program().0 == "call");
    }

    #[test]
    fn the_cookie_of_a_probe_in_the_middle_says_where_everything_is() {
        let view = View::Call { size: Place::Slot(24), result: Register(11), counts: Counts::IfZero(false) };
        let (_, cookie) = inside(view, 40).program();
        assert_eq!(abi::cookie_function(cookie), whole::FUNCTION_ALLOCATED);
        assert_eq!((cookie::register(cookie, 1), cookie::stack_shift(cookie)), (Register(11), 40));
        assert_eq!(whole::cookie_slot(cookie, whole::COOKIE_SIZE_SHIFT), 24);
        assert_eq!(whole::cookie_slot(cookie, whole::COOKIE_FRAME_SHIFT), 16);
        assert_eq!(cookie & (whole::COOKIE_IF_ZERO | whole::COOKIE_IF_NOT_ZERO), whole::COOKIE_IF_NOT_ZERO);
    }

    #[test]
    fn only_a_plain_leaf_is_left_to_the_program_that_asks_no_cookie() {
        let malloc = Probe {
            function: "malloc".to_owned(),
            kind: abi::FUNCTION_MALLOC,
            offset: 0x1000,
            leaf: true,
            ..Probe::default()
        };
        assert_eq!(malloc.program(), ("malloc", 0));
        let wrapper = Probe { leaf: false, ..malloc };
        let (program, cookie) = wrapper.program();
        assert_eq!((program, cookie & abi::COOKIE_LEAF), ("call", 0));
        assert_eq!(cookie::register(cookie, 0), Register::RDI);
    }
}
