//! What userspace knows of each life of each traced process: its mappings, its name, its end.
//!
//! In: the kernel's records of mappings, forks and programs; events of the BPF programs; looks into /proc. Out: what the
//! report says of processes, the address spaces by which stacks are named, and the files that were mapped.
//!
//! Records describe a life while it runs, so that even a life that ended before any look into /proc has its mappings. Records
//! and events bear times of one clock, by which they are matched: a slot belongs to the life of its process during which the
//! BPF programs assigned it.

mod archive;
mod layouts;
mod rereading;
mod seen;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use leaktrace_common::abi::{PROCESS_ALIVE, Process};

use super::life::{Beginning, Life};
use super::mmap_records::{Record, What};
use crate::host::clock::monotonic_ns;
use crate::model::{MemoryUse, Pid, RawProcess};
use crate::process::facts;
use crate::process::maps::{AddressSpace, CaptureError, Mapping, MappingName, Object, ObjectStore};
use archive::Archive;
pub use archive::Merged;
pub use seen::Seen;

/// The processes whose records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// Every process but leaktrace's own.
    Everyone,
    /// Those that were looked at, and their descendants.
    Descendants,
    /// Only those that were looked at.
    Named,
}

/// All lives that were seen.
pub struct Processes {
    store: Arc<ObjectStore>,
    followed: Followed,
    /// Our own.
    own: Vec<Pid>,
    /// By number, in the order in which they were seen.
    lives: BTreeMap<u32, Life>,
    next: u32,
    by_slot: HashMap<u32, u32>,
    /// The lives of each process, the latest last.
    by_pid: HashMap<Pid, Vec<u32>>,
    /// Ended lives without a known event of the BPF programs, in two generations: an event may still be unread.
    unclaimed: [Vec<u32>; 2],
    /// Processes whose mappings have changed since they were last asked for.
    changed: BTreeSet<Pid>,
    /// Processes in which a thread that is not the first has begun another program.
    orphaned: Vec<Pid>,
    /// The last life whose mappings were read again.
    reread: u32,
    archive: Archive,
}

/// Lives as the report wants them.
#[derive(Debug, Default)]
pub struct Roster {
    /// One by one.
    pub processes: Vec<RawProcess>,
    /// Where the lives that have a slot stand among them.
    pub by_slot: HashMap<u32, usize>,
}

/// A file that a process has mapped as code.
#[derive(Debug)]
pub struct Mapped {
    /// The process.
    pub pid: Pid,
    /// The file.
    pub object: Arc<Object>,
    /// When, by `CLOCK_MONOTONIC`.
    pub time_ns: u64,
}

impl Processes {
    /// None yet. Files are opened by way of `store`; `own` processes are left out where everyone is followed.
    pub fn new(store: Arc<ObjectStore>, followed: Followed, own: Vec<Pid>) -> Self {
        Self {
            store,
            followed,
            own,
            lives: BTreeMap::new(),
            next: 0,
            by_slot: HashMap::new(),
            by_pid: HashMap::new(),
            unclaimed: [Vec::new(), Vec::new()],
            changed: BTreeSet::new(),
            orphaned: Vec::new(),
            reread: 0,
            archive: Archive::default(),
        }
    }

    /// Takes note of a process that runs now, or looks at it again. Its mappings as they are now.
    ///
    /// # Errors
    /// It has ended, or may not be looked at.
    pub fn look_at(&mut self, pid: Pid) -> Result<&AddressSpace, CaptureError> {
        let number = match self.current(pid) {
            Some(number) => {
                if let Some(life) = self.lives.get_mut(&number) {
                    if life.environment.is_none() {
                        life.environment = facts::environment(pid);
                    }
                    if life.space.recapture(&self.store)? {
                        self.changed.insert(pid);
                    }
                }
                number
            }
            None => self.capture(pid)?,
        };
        // It was there or has just been added.
        self.lives.get(&number).map(|life| &life.space).ok_or(CaptureError::Ended(pid))
    }

    /// Notes that a process is stopped and has allocated nothing since its program began.
    pub fn held(&mut self, pid: Pid) {
        if let Some(life) = self.current(pid).and_then(|number| self.lives.get_mut(&number)) {
            life.held_ns = monotonic_ns().unwrap_or(0);
        }
    }

    /// Puts a process into the report even if nothing is booked for it.
    pub fn name(&mut self, pid: Pid) {
        if let Some(life) = self.current(pid).and_then(|number| self.lives.get_mut(&number)) {
            life.named = true;
        }
    }

    /// Lives that are reported and go on, with their processes.
    pub fn reported_alive(&self) -> Vec<(u32, Pid)> {
        let alive = self.lives.iter().filter(|(_, life)| !life.ended && life.is_reported());
        alive.map(|(number, life)| (*number, life.pid)).collect()
    }

    /// Takes over how much memory lives have, by number. One that has ended meanwhile stays as last seen.
    pub fn remember(&mut self, memory: impl IntoIterator<Item = (u32, MemoryUse)>) {
        for (number, memory) in memory {
            if let Some(life) = self.lives.get_mut(&number).filter(|life| !life.ended) {
                life.memory = memory;
            }
        }
    }

    /// Present lives with mappings that they did not have when this was last called.
    pub fn take_changed(&mut self) -> impl Iterator<Item = (Pid, &AddressSpace)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|pid| Some((pid, &self.lives.get(&self.current(pid)?)?.space)))
    }

    /// Processes that have begun another program by a thread that was not their first, since this was last called: what the
    /// kernel had attached to the first thread went with it.
    pub fn take_orphaned(&mut self) -> Vec<Pid> {
        std::mem::take(&mut self.orphaned)
    }

    /// The address spaces of all lives that are not over.
    pub fn spaces(&self) -> impl Iterator<Item = &AddressSpace> {
        self.lives.values().filter(|life| !life.ended).map(|life| &life.space)
    }

    /// All lives that are not over.
    pub fn going_on(&self) -> impl Iterator<Item = &Life> + Clone {
        self.lives.values().filter(|life| !life.ended)
    }

    /// The pids of all lives that are not over.
    pub fn alive(&self) -> Vec<Pid> {
        self.lives.values().filter(|life| !life.ended).map(|life| life.pid).collect()
    }

    /// Applies a record of the kernel. Returns the file that it maps into a followed process, if any.
    pub fn apply(&mut self, record: &Record) -> Option<Mapped> {
        let time = record.time_ns;
        match &record.what {
            What::Forked { pid, parent } => self.forked(*pid, *parent, time),
            What::Executed { pid, comm } => self.executed(*pid, comm, time),
            What::Mapped { pid, mapping } => return self.mapped(*pid, mapping, time),
            What::Renamed { pid, tid, comm } if *tid == pid.0 => {
                if let Some(life) = self.current(*pid).and_then(|number| self.lives.get_mut(&number)) {
                    life.comm.clone_from(comm);
                }
            }
            What::Exited { pid, tid } if *tid == pid.0 => self.leader_exited(*pid),
            What::Renamed { .. } | What::Exited { .. } | What::Lost(_) => {}
        }
        None
    }

    fn forked(&mut self, pid: Pid, parent: Pid, time: u64) {
        if self.is_captured_since(pid, time) {
            return;
        }
        // A pid is reused only after its process is gone.
        self.end_current(pid);
        let parent = self.current(parent).and_then(|number| self.lives.get(&number));
        let life = match (self.followed, parent) {
            (Followed::Everyone | Followed::Descendants, Some(parent)) => Life {
                comm: parent.comm.clone(),
                exe: parent.exe.clone(),
                environment: parent.environment.clone(),
                ..Life::new(pid, time, parent.space.forked(pid))
            },
            (Followed::Everyone, None) if !self.own.contains(&pid) => Life::new(pid, time, AddressSpace::empty(pid)),
            _ => return,
        };
        let start_time = facts::moment(time);
        self.add(Life { start_time, ..life });
    }

    fn executed(&mut self, pid: Pid, comm: &str, time: u64) {
        let Some(old) = self.current(pid) else { return };
        let Some(before) = self.lives.get(&old).filter(|before| before.captured_ns <= time) else { return };
        if before.leaderless {
            self.orphaned.push(pid);
        }
        let life = Life {
            beginning: Beginning::Exec,
            comm: comm.to_owned(),
            start_time: before.start_time,
            named: before.named,
            ..Life::new(pid, time, AddressSpace::empty(pid))
        };
        self.end_current(pid);
        let number = self.add(life);
        // Now: by the time of its first event or of a report it may have ended.
        if let Some(life) = self.lives.get_mut(&number) {
            life.read_environment();
        }
    }

    fn mapped(&mut self, pid: Pid, mapping: &Mapping<'_>, time: u64) -> Option<Mapped> {
        let number = match self.current(pid) {
            Some(number) => number,
            // Its beginning was not recorded.
            None if self.followed == Followed::Everyone && !self.own.contains(&pid) => self.capture(pid).ok()?,
            None => return None,
        };
        let life = self.lives.get_mut(&number).filter(|life| life.captured_ns <= time)?;
        let (object, is_new) = life.space.note(mapping, time, &self.store);
        if is_new {
            self.changed.insert(pid);
        }
        let object = object?;
        if life.exe.is_none()
            && let MappingName::File { path, .. } = &mapping.name
        {
            // The program itself is mapped first.
            life.exe = Some(path.to_path_buf());
            // A script's interpreter is known only now.
            life.read_environment();
        }
        Some(Mapped { pid, object, time_ns: time })
    }

    /// Other threads may run on, and then an event of the BPF programs reports the process' end; there is none for a process
    /// that never allocated, so its life ends here.
    fn leader_exited(&mut self, pid: Pid) {
        if let Some(life) = self.current(pid).and_then(|number| self.lives.get_mut(&number)) {
            life.leaderless = true;
        }
        if self.current(pid).and_then(|number| self.lives.get(&number)).is_some_and(|life| !life.is_reported()) {
            self.end_current(pid);
        }
    }

    /// Adds a process as it is now.
    fn capture(&mut self, pid: Pid) -> Result<u32, CaptureError> {
        // Before the reading: records from now on may or may not be in it, and applying one twice does no harm.
        let captured_ns = monotonic_ns().unwrap_or(0);
        let space = AddressSpace::capture(pid, &self.store)?;
        let started_ns = facts::started_ns(pid).unwrap_or(0);
        let environment = facts::environment(pid);
        let mut life = Life { started_ns, captured_ns, environment, ..Life::new(pid, 0, space) };
        if let Some(identity) = facts::identity(pid) {
            life.identify(identity);
        }
        Ok(self.add(life))
    }

    fn add(&mut self, life: Life) -> u32 {
        let number = self.next;
        self.next += 1;
        self.by_pid.entry(life.pid).or_default().push(number);
        self.changed.insert(life.pid);
        self.lives.insert(number, life);
        number
    }

    /// The present life of a process.
    fn current(&self, pid: Pid) -> Option<u32> {
        let number = *self.by_pid.get(&pid)?.last()?;
        self.lives.get(&number).is_some_and(|life| !life.ended).then_some(number)
    }

    fn is_captured_since(&self, pid: Pid, time: u64) -> bool {
        self.current(pid).and_then(|number| self.lives.get(&number)).is_some_and(|life| life.captured_ns > time)
    }

    fn end_current(&mut self, pid: Pid) {
        let Some(number) = self.current(pid) else { return };
        let Some(life) = self.lives.get_mut(&number) else { return };
        life.ended = true;
        if !life.is_reported() {
            self.unclaimed[1].push(number);
        }
    }

    /// The programs have given a process a slot, at the first event of a life.
    pub fn began(&mut self, slot: u32, process: &Process) {
        if self.by_slot.contains_key(&slot) {
            return;
        }
        let pid = Pid(process.tgid);
        let then = |number: &&u32| self.lives.get(number).is_some_and(|life| life.begun_ns <= process.seen_ns);
        let known = self.by_pid.get(&pid).and_then(|numbers| numbers.iter().rev().find(then)).copied();
        let number = match known {
            Some(number) if self.lives.get(&number).is_some_and(Life::is_unclaimed) => number,
            // Its beginning was not recorded.
            _ => self.capture(pid).unwrap_or_else(|_| self.add(Life::new(pid, 0, AddressSpace::empty(pid)))),
        };
        let is_current = self.current(pid) == Some(number);
        if let Some(life) = self.lives.get_mut(&number) {
            // It may have been too early at exec.
            if is_current {
                life.read_environment();
            }
            life.slot = Some(slot);
            life.observe(process);
            self.by_slot.insert(slot, number);
        }
    }

    /// The life in a slot has ended. `seen` is the lower half of the time at which it was first seen, which tells it from later
    /// lives in the slot.
    pub fn ended(&mut self, slot: u32, seen: u32) {
        if let Some(life) = self.by_slot.get(&slot).and_then(|number| self.lives.get_mut(number))
            && life.counters.seen_ns as u32 == seen
        {
            life.ended = true;
            self.archive.mark_reclaimable(slot);
            // The process may have begun its next life already, whose mappings may not have been passed on yet.
            self.changed.insert(life.pid);
        }
    }

    /// Forgets lives that ended before anything was booked for them. To be called when all records and events have been
    /// applied. `about` sees each life first and returns whether enough is known of it; otherwise the life stays for a while.
    /// Returns the processes of which no life is left.
    pub fn forget_unclaimed(&mut self, mut about: impl FnMut(&Seen) -> bool) -> Vec<Pid> {
        let [old, new] = &mut self.unclaimed;
        let mut forgotten = std::mem::replace(old, std::mem::take(new));
        let mut stays = Vec::new();
        forgotten.retain(|number| {
            let Some(life) = self.lives.get(number).filter(|life| !life.is_reported()) else { return false };
            let is_known = about(&life.seen());
            if !is_known {
                stays.push(*number);
            }
            is_known
        });
        self.unclaimed[1].extend(stays);
        forgotten.into_iter().filter_map(|number| self.forget(number)).collect()
    }

    fn forget(&mut self, number: u32) -> Option<Pid> {
        let pid = self.lives.remove(&number)?.pid;
        let numbers = self.by_pid.get_mut(&pid)?;
        numbers.retain(|known| *known != number);
        if !numbers.is_empty() {
            return None;
        }
        self.by_pid.remove(&pid);
        Some(pid)
    }

    /// A process has ended with this status, as its parent sees it.
    pub fn exited(&mut self, pid: Pid, status: Option<i32>) {
        let latest = self.by_pid.get(&pid).and_then(|numbers| numbers.last());
        if let Some(life) = latest.and_then(|number| self.lives.get_mut(number)) {
            life.ended = true;
            life.exit_status = status;
        }
    }

    /// Takes over what the tables say of the life in a slot.
    pub fn observe(&mut self, slot: u32, process: &Process) {
        self.began(slot, process);
        if let Some(life) = self.by_slot.get(&slot).and_then(|number| self.lives.get_mut(number)) {
            life.observe(process);
            if process.state != PROCESS_ALIVE {
                life.ended = true;
                self.archive.mark_reclaimable(slot);
            }
        }
    }

    /// All lives that the report is about.
    pub fn roster(&self) -> Roster {
        let mut roster = Roster::default();
        for (number, life) in self.lives.iter().filter(|(_, life)| life.is_reported()) {
            let position = roster.processes.len();
            if let Some(slot) = life.slot {
                roster.by_slot.insert(slot, position);
            }
            roster.processes.push(life.raw(*number));
        }
        roster
    }

    /// The variables of a life that say how it allocates, by its number in [`RawProcess::life`]; `None` where they are not
    /// known.
    pub fn environment(&self, life: u32) -> Option<&[(&'static str, String)]> {
        self.lives.get(&life)?.environment.as_deref()
    }

    /// The files of code in an address space that are there and could not be opened, with why.
    pub fn unopened<'a>(&'a self, space: &'a AddressSpace) -> impl Iterator<Item = (&'a Path, String)> {
        let without = space.mappings().filter(|location| location.object.is_none()).map(|location| &**location.module);
        without.filter(|path| path.is_absolute()).filter_map(|path| Some((path, self.store.unopened(path)?)))
    }

    /// The life in a slot.
    pub fn in_slot(&self, slot: u32) -> Option<&Life> {
        self.lives.get(self.by_slot.get(&slot)?)
    }

    /// The address space of the life in a slot.
    pub fn space_in(&self, slot: u32) -> Option<&AddressSpace> {
        self.space(*self.by_slot.get(&slot)?)
    }

    /// The address space of a life by its number in [`RawProcess::life`].
    pub fn space(&self, life: u32) -> Option<&AddressSpace> {
        self.lives.get(&life).map(|life| &life.space)
    }
}

impl Life {
    /// Whether the programs have not given it a slot yet.
    fn is_unclaimed(&self) -> bool {
        self.slot.is_none() && self.remains.is_none()
    }

    /// Whether anything was booked for it, or it was asked for.
    fn is_reported(&self) -> bool {
        self.slot.is_some() || self.remains.is_some() || self.named
    }
}
