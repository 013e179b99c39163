//! What userspace knows of each life of each traced process: its mappings, its name, its end.
//!
//! In: events of the programs, and looks into /proc while the process lives. Out: what the report says of processes, and
//! the address spaces by which stacks are named.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use leaktrace_common::abi::{PROCESS_ALIVE, PROCESS_EXITED, Process};

use super::facts;
use crate::model::{Pid, RawProcess};
use crate::procmaps::{AddressSpace, CaptureError, ObjectStore};

/// One life of a process.
struct Life {
    pid: Pid,
    /// Where the programs book it; `None` until its first event.
    slot: Option<u32>,
    comm: String,
    exe: Option<PathBuf>,
    start_time: Option<Timestamp>,
    space: AddressSpace,
    ended: bool,
    exited: bool,
    exit_status: Option<i32>,
    memory: facts::Memory,
    counters: Process,
}

/// All lives that were seen.
pub struct Processes {
    store: Arc<ObjectStore>,
    lives: Vec<Life>,
    by_slot: HashMap<u32, usize>,
    /// The present life of each process.
    current: HashMap<Pid, usize>,
    /// Processes whose mappings have changed since they were last asked for.
    changed: BTreeSet<Pid>,
}

impl Processes {
    /// None yet. Files are opened by way of `store`.
    pub fn new(store: Arc<ObjectStore>) -> Self {
        Self { store, lives: Vec::new(), by_slot: HashMap::new(), current: HashMap::new(), changed: BTreeSet::new() }
    }

    /// Takes note of a process that runs now, or looks at it again. Its mappings as they are now.
    ///
    /// # Errors
    /// It has ended, or may not be looked at.
    pub fn look_at(&mut self, pid: Pid) -> Result<&AddressSpace, CaptureError> {
        let index = if let Some(&index) = self.current.get(&pid) {
            if self.lives[index].space.recapture(&self.store)? {
                self.changed.insert(pid);
            }
            index
        } else {
            let space = AddressSpace::capture(pid, &self.store)?;
            self.add(pid, None, space)
        };
        self.lives[index].read_facts();
        Ok(&self.lives[index].space)
    }

    /// Present lives with mappings that they did not have when this was last called.
    pub fn take_changed(&mut self) -> impl Iterator<Item = (Pid, &AddressSpace)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|pid| Some((pid, &self.lives[*self.current.get(&pid)?].space)))
    }

    /// The same for all that are alive, quietly: who has ended since stays as last seen.
    pub fn look_at_all(&mut self) {
        for life in self.lives.iter_mut().filter(|life| !life.ended) {
            if let Ok(changed) = life.space.recapture(&self.store) {
                if changed {
                    self.changed.insert(life.pid);
                }
                life.read_facts();
            }
        }
    }

    fn add(&mut self, pid: Pid, slot: Option<u32>, space: AddressSpace) -> usize {
        let index = self.lives.len();
        let mut life = Life {
            pid,
            slot,
            comm: String::new(),
            exe: None,
            start_time: None,
            space,
            ended: false,
            exited: false,
            exit_status: None,
            memory: facts::Memory::default(),
            counters: Process::default(),
        };
        life.read_facts();
        self.lives.push(life);
        self.current.insert(pid, index);
        self.changed.insert(pid);
        if let Some(slot) = slot {
            self.by_slot.insert(slot, index);
        }
        index
    }

    /// The programs have given a process a slot: it has had its first event.
    pub fn began(&mut self, slot: u32, pid: Pid) {
        if self.by_slot.contains_key(&slot) {
            return;
        }
        match self.current.get(&pid) {
            Some(&index) if self.lives[index].slot.is_none() && !self.lives[index].ended => {
                self.lives[index].slot = Some(slot);
                self.by_slot.insert(slot, index);
            }
            _ => {
                let space = AddressSpace::capture(pid, &self.store).unwrap_or_else(|_| AddressSpace::empty(pid));
                self.add(pid, Some(slot), space);
            }
        }
    }

    /// The life in a slot has ended, or, where `slot` never had an event, the present life of `pid`.
    pub fn ended(&mut self, slot: u32, pid: Pid) {
        let Some(&index) = self.by_slot.get(&slot).or_else(|| self.current.get(&pid)) else { return };
        self.lives[index].ended = true;
        if self.current.get(&pid) == Some(&index) {
            self.current.remove(&pid);
        }
    }

    /// A process has ended with this status, as its parent sees it.
    pub fn exited(&mut self, pid: Pid, status: Option<i32>) {
        if let Some(life) = self.lives.iter_mut().rev().find(|life| life.pid == pid) {
            life.ended = true;
            life.exited = true;
            life.exit_status = status;
        }
        self.current.remove(&pid);
    }

    /// Takes over what the tables say of the life in a slot.
    pub fn observe(&mut self, slot: u32, process: &Process) {
        self.began(slot, Pid(process.tgid));
        let Some(&index) = self.by_slot.get(&slot) else { return };
        let life = &mut self.lives[index];
        life.counters = *process;
        if life.comm.is_empty() {
            life.comm = comm(process);
        }
        if process.state != PROCESS_ALIVE {
            life.ended = true;
            life.exited |= process.state == PROCESS_EXITED;
        }
    }

    /// All lives as the report wants them, and where the life of each slot stands among them.
    pub fn raw(&self) -> (Vec<RawProcess>, HashMap<u32, usize>) {
        let raw = self.lives.iter().enumerate().map(|(index, life)| life.raw(index as u32)).collect();
        (raw, self.by_slot.clone())
    }

    /// The address space of a life by its number in [`RawProcess::life`].
    pub fn space(&self, life: u32) -> Option<&AddressSpace> {
        self.lives.get(life as usize).map(|life| &life.space)
    }
}

impl Life {
    fn read_facts(&mut self) {
        if let Some(facts) = facts::read(self.pid) {
            self.comm = facts.comm;
            self.exe = facts.exe;
            self.start_time = facts.start_time;
            self.memory = facts.memory;
        }
    }

    fn raw(&self, number: u32) -> RawProcess {
        RawProcess {
            life: number,
            pid: self.pid,
            start_time: self.start_time,
            comm: self.comm.clone(),
            exe: self.exe.clone(),
            exited: self.exited,
            exit_status: self.exit_status,
            peak_bytes: self.counters.peak_bytes,
            untracked_frees: self.counters.untracked_frees,
            abandoned_calls: self.counters.abandoned_calls,
            rss_bytes: self.memory.rss_bytes,
            pss_bytes: self.memory.pss_bytes,
        }
    }
}

fn comm(process: &Process) -> String {
    let end = process.comm.iter().position(|byte| *byte == 0).unwrap_or(process.comm.len());
    String::from_utf8_lossy(&process.comm[..end]).into_owned()
}
