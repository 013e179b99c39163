//! Processes that should have been traced but were recorded in part or not at all, with the reason.
//!
//! In: ended and running lives, the allocators found in them, and since when these are probed. Out: a short list: of one name
//! and one reason, processes beyond the first few are only counted.
//!
//! A life is whole if every allocator that it mapped was probed from the life's first instruction on, or from its release where
//! it was held. For a life that ran before, this counts from the beginning of the trace, as its numbers do.

use std::collections::{BTreeMap, HashSet};

use crate::kernel::attach::Scope;
use crate::lives::processes::Seen;
use crate::model::{Pid, Untraced};
use crate::process::facts;
use crate::process::maps::{AddressSpace, CaptureError};
use crate::sources::allocators::{Lateness, Planned, Prober};

/// Processes of one name and one reason that are listed one by one.
const LISTED: usize = 3;
/// Names and reasons that are kept; beyond them processes are counted together.
const MAX_KINDS: usize = 256;
/// Lives that have ended while their files were still being read, and are asked about again.
const MAX_OPEN: usize = 4096;
/// The name under which processes beyond [`MAX_KINDS`] are counted.
const OTHERS: &str = "others";

const PROBED_LATE: &str =
    "an allocator of it was probed only when it was mapped already, and what it allocated in between is missing";
const NOT_PROBED: &str = "an allocator of it could not be probed";
const MARKED_LATE: &str = "its functions __lsan_disable or __lsan_ignore_object were probed only when they were mapped already, or not at all, and what \
     it has called no leak by them in between may be reported";
const OVER_BEFORE: &str = "it was over before its allocator was probed";
const UNREAD: &str = "some of its files could not be opened, and in the others there is no allocator that we know";
const DENIED: &str = "no permission to read its mappings; run as root, or, if that is root, with the rights that a container or a security module denies";
const UNSEEN: &str = "its mappings could not be read";
const NAMELESS: &str = "it was over before its mappings were read, and its stacks have no names";
const STILL_READ: &str = "its files were still being read at the end";
const NO_SLOT: &str = "no more processes can be told apart at once, and what it allocated, if anything, is missing";

/// What was found so far.
#[derive(Debug, Default)]
pub struct UntracedProcesses {
    kinds: Kinds,
    /// Lives that are over, of whose files some were still being read.
    open: Vec<Seen>,
    /// Processes whose mappings could not be read.
    unseen: HashSet<Pid>,
    /// When tracing began, by `CLOCK_MONOTONIC`; 0 before.
    begun_ns: u64,
}

/// Processes by name, reason, and whether they were traced in part.
type Kinds = BTreeMap<(String, String, bool), Kind>;

#[derive(Debug, Default, Clone)]
struct Kind {
    pids: Vec<Pid>,
    more: u64,
}

impl Kind {
    fn add(&mut self, pid: Pid) {
        if self.pids.contains(&pid) {
            return;
        }
        if self.pids.len() < LISTED { self.pids.push(pid) } else { self.more += 1 }
    }
}

/// What is known of probes and slots.
pub struct Means<'a> {
    /// What is probed.
    pub prober: &'a Prober,
    /// The scope of the probes in a process' files.
    pub scope: &'a dyn Fn(Pid) -> Scope,
    /// Whether there were calls of processes for which no slot was left.
    pub slots_ran_out: bool,
}

/// Whether blocks of a process may be missing for this reason: what marks them may only report too much.
#[must_use]
pub fn hides_blocks(process: &Untraced) -> bool {
    process.reason != MARKED_LATE
}

/// What there is to say of a life.
enum Verdict {
    /// Nothing.
    Whole,
    /// Some of its files are still being read.
    Unknown,
    /// It is traced in part, for this reason.
    Partly(&'static str),
    /// It is not traced, for this reason.
    Not(String),
}

impl UntracedProcesses {
    /// Recording begins.
    pub fn begin(&mut self, begun_ns: u64) {
        self.begun_ns = begun_ns;
    }

    /// When recording began, by `CLOCK_MONOTONIC`; 0 before.
    #[must_use]
    pub fn begun_ns(&self) -> u64 {
        self.begun_ns
    }

    /// A life of which nothing was booked has ended. Returns whether it is known by now what there was to trace in it.
    pub fn ended(&mut self, seen: &Seen, means: &Means<'_>) -> bool {
        match self.judge(seen, means) {
            Verdict::Unknown => return false,
            verdict => add(&mut self.kinds, seen, verdict),
        }
        true
    }

    /// A life that was booked has ended.
    pub fn booked(&mut self, seen: Seen, means: &Means<'_>) {
        match self.judge(&seen, means) {
            Verdict::Unknown if self.open.len() < MAX_OPEN => self.open.push(seen),
            Verdict::Unknown => add(&mut self.kinds, &seen, undecided(&seen, means)),
            verdict => add(&mut self.kinds, &seen, verdict),
        }
    }

    /// A process could not be probed, for this reason.
    pub fn refused(&mut self, pid: Pid, comm: &str, reason: String) {
        insert(&mut self.kinds, pid, comm, (reason, false));
    }

    /// The mappings of a process could not be read, whenever that was tried.
    pub fn unseen(&mut self, pid: Pid, error: &CaptureError) {
        if self.unseen.len() < MAX_OPEN && self.unseen.insert(pid) {
            let comm = facts::identity(pid).map_or_else(String::new, |identity| identity.comm);
            let reason = if matches!(error, CaptureError::Denied(_)) { DENIED } else { UNSEEN };
            self.refused(pid, &comm, reason.to_owned());
        }
    }

    /// The list of ended processes and of those present.
    #[must_use]
    pub fn list(&mut self, present: impl Iterator<Item = Seen>, means: &Means<'_>) -> Vec<Untraced> {
        for seen in std::mem::take(&mut self.open) {
            self.booked(seen, means);
        }
        let mut kinds = self.kinds.clone();
        for seen in &self.open {
            add(&mut kinds, seen, undecided(seen, means));
        }
        for seen in present {
            match self.judge(&seen, means) {
                Verdict::Unknown => add(&mut kinds, &seen, undecided(&seen, means)),
                verdict => add(&mut kinds, &seen, verdict),
            }
        }
        let mut list = Vec::new();
        for ((comm, reason, partly), Kind { pids, more }) in kinds {
            let count = pids.len();
            list.extend(pids.into_iter().enumerate().map(|(index, pid)| Untraced {
                pid,
                comm: comm.clone(),
                reason: reason.clone(),
                partly,
                more: if index + 1 == count { more } else { 0 },
            }));
        }
        list
    }

    fn judge(&self, seen: &Seen, means: &Means<'_>) -> Verdict {
        let Means { prober, scope, slots_ran_out } = means;
        // A held process could not call what was mapped before its release, and before tracing began nothing was recorded
        // anyway.
        let since = |mapped: Option<u64>| {
            let mapped = mapped.unwrap_or(0);
            let held = if mapped <= seen.held_ns { seen.held_ns } else { 0 };
            [mapped, held, seen.started_ns, self.begun_ns].into_iter().max().unwrap_or(0)
        };
        let lateness = || prober.lateness(&seen.space, scope(seen.pid), since, Planned::allocates_itself);
        let marks = || prober.lateness(&seen.space, scope(seen.pid), since, Planned::is_annotated);
        if seen.is_booked {
            if seen.has_ended && seen.space.mappings().next().is_none() {
                return Verdict::Partly(NAMELESS);
            }
            return match lateness() {
                Lateness::InTime => match marks() {
                    Lateness::Late | Lateness::Never => Verdict::Partly(MARKED_LATE),
                    Lateness::InTime | Lateness::NotYet => Verdict::Whole,
                },
                Lateness::NotYet => Verdict::Unknown,
                Lateness::Late => Verdict::Partly(PROBED_LATE),
                Lateness::Never => Verdict::Partly(NOT_PROBED),
            };
        }
        if !has_code(&seen.space) {
            return Verdict::Whole;
        }
        let found = prober.found(&seen.space);
        if found.is_pending {
            return Verdict::Unknown;
        }
        if let Some(reason) = found.untraceable() {
            return Verdict::Not(if is_unread(&seen.space) { UNREAD.to_owned() } else { reason });
        }
        match lateness() {
            Lateness::NotYet => Verdict::Unknown,
            Lateness::Never => Verdict::Not(NOT_PROBED.to_owned()),
            Lateness::Late if seen.has_ended => Verdict::Not(OVER_BEFORE.to_owned()),
            Lateness::Late => Verdict::Not(PROBED_LATE.to_owned()),
            Lateness::InTime if *slots_ran_out => Verdict::Not(NO_SLOT.to_owned()),
            Lateness::InTime => Verdict::Whole,
        }
    }
}

/// What there is to say of a life about which nothing more will be known in time.
fn undecided(seen: &Seen, means: &Means<'_>) -> Verdict {
    let found = means.prober.found(&seen.space);
    match (found.is_pending, seen.is_booked) {
        (true, true) => Verdict::Partly(STILL_READ),
        (true, false) if found.objects.is_empty() => Verdict::Not(STILL_READ.to_owned()),
        _ => Verdict::Unknown,
    }
}

fn add(kinds: &mut Kinds, seen: &Seen, verdict: Verdict) {
    match verdict {
        Verdict::Whole | Verdict::Unknown => {}
        Verdict::Partly(reason) => insert(kinds, seen.pid, &seen.comm, (reason.to_owned(), true)),
        Verdict::Not(reason) => insert(kinds, seen.pid, &seen.comm, (reason, false)),
    }
}

fn insert(kinds: &mut Kinds, pid: Pid, comm: &str, (reason, partly): (String, bool)) {
    let key = (comm.to_owned(), reason, partly);
    let key = if kinds.len() < MAX_KINDS || kinds.contains_key(&key) {
        key
    } else {
        (OTHERS.to_owned(), "more names and reasons than are kept apart".to_owned(), partly)
    };
    kinds.entry(key).or_default().add(pid);
}

/// Kernel threads have no code of their own, and a process that has just begun another program has none yet.
fn has_code(space: &AddressSpace) -> bool {
    space.mappings().any(|location| location.module.is_absolute())
}

/// Whether any of its code comes from a file that could not be opened.
fn is_unread(space: &AddressSpace) -> bool {
    space.mappings().any(|location| location.object.is_none() && location.module.is_absolute())
}
