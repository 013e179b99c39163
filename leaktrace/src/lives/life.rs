//! One life of a process: one program in it, from its fork or exec to its exec or end.
//!
//! A process that executes another program begins another life: nothing that its old address space held is left.

use std::path::PathBuf;

use jiff::Timestamp;
use leaktrace_common::abi::Process;

use crate::kernel::reclaim::DeadSite;
use crate::model::{MemoryUse, Pid, RawProcess, Tally};
use crate::process::facts::{self, Identity};
use crate::process::maps::AddressSpace;

/// What memory a life began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// That of its parent, or its beginning was not seen.
    Unknown,
    /// That of a newly executed program.
    Exec,
}

/// What is known of a life.
#[derive(Debug)]
pub struct Life {
    /// The process.
    pub pid: Pid,
    /// By `CLOCK_MONOTONIC`; 0 where it began before we looked.
    pub begun_ns: u64,
    /// When it began at the earliest, by the same clock, also where it began before we looked.
    pub started_ns: u64,
    /// What memory it began with.
    pub beginning: Beginning,
    /// Until when it was held so that it could allocate nothing; 0 if it never was.
    pub held_ns: u64,
    /// When its mappings were read from the process itself, if they were: records from before are in there already.
    pub captured_ns: u64,
    /// The slot that the BPF programs book it in; `None` until its first event.
    pub slot: Option<u32>,
    /// Reported even if it never has an event.
    pub named: bool,
    /// The kernel's short name of it.
    pub comm: String,
    /// Path of its executable.
    pub exe: Option<PathBuf>,
    /// When the process started.
    pub start_time: Option<Timestamp>,
    /// Its mappings.
    pub space: AddressSpace,
    /// Whether its first thread has ended, which the others may outlive.
    pub leaderless: bool,
    /// Whether it is over.
    pub ended: bool,
    /// How it ended where that is known.
    pub exit_status: Option<i32>,
    /// Variables that say how it allocates, as it was started with them; `None` where they could not be read in time.
    pub environment: Option<Vec<(&'static str, String)>>,
    /// As last read.
    pub memory: MemoryUse,
    /// As last read from the tables.
    pub counters: Process,
    /// How many lives this one stands for, where it is no life of a process; else 0.
    pub merged: u64,
    /// Its accounts, once it is over and they are out of the tables.
    pub remains: Option<Vec<DeadSite>>,
}

impl Life {
    /// One that has just begun, as far as we know.
    pub fn new(pid: Pid, begun_ns: u64, space: AddressSpace) -> Self {
        Self {
            pid,
            begun_ns,
            started_ns: begun_ns,
            beginning: Beginning::Unknown,
            held_ns: 0,
            captured_ns: begun_ns,
            slot: None,
            named: false,
            comm: String::new(),
            exe: None,
            start_time: None,
            space,
            leaderless: false,
            ended: false,
            exit_status: None,
            environment: None,
            memory: MemoryUse::default(),
            counters: Process::default(),
            merged: 0,
            remains: None,
        }
    }

    /// Takes over what /proc says.
    pub fn identify(&mut self, identity: Identity) {
        self.comm = identity.comm;
        self.exe = identity.exe;
        self.start_time = identity.start_time;
    }

    /// Reads the environment variables that say how it allocates, if they are unknown and its program heeds any. The process
    /// must still be in this life.
    pub fn read_environment(&mut self) {
        if self.environment.is_none() && facts::heeds_environment(&self.comm, self.exe.as_deref()) {
            self.environment = facts::environment(self.pid);
        }
    }

    /// Takes over the life's record in the tables.
    pub fn observe(&mut self, process: &Process) {
        self.counters = *process;
        if self.comm.is_empty() {
            let end = process.comm.iter().position(|byte| *byte == 0).unwrap_or(process.comm.len());
            self.comm = String::from_utf8_lossy(&process.comm[..end]).into_owned();
        }
    }

    /// Merges the numbers of one more ended life into this one, which stands for a group.
    pub fn absorb(&mut self, other: &Process) {
        self.merged += 1;
        let add = |sum: &mut u64, number: u64| *sum = sum.saturating_add(number);
        add(&mut self.counters.peak_bytes, other.peak_bytes);
        add(&mut self.counters.untracked_frees, other.untracked_frees);
        add(&mut self.counters.thread_end_frees, other.thread_end_frees);
        add(&mut self.counters.abandoned_calls, other.abandoned_calls);
    }

    /// As the report wants it.
    pub fn raw(&self, number: u32) -> RawProcess {
        RawProcess {
            life: number,
            pid: self.pid,
            start_time: self.start_time,
            comm: self.comm.clone(),
            exe: self.exe.clone(),
            exited: self.ended,
            exit_status: self.exit_status,
            peak_bytes: self.counters.peak_bytes,
            // The programs count these as untracked first: only the thread's end tells them apart.
            untracked_frees: self.counters.untracked_frees.saturating_sub(self.counters.thread_end_frees),
            thread_end_frees: self.counters.thread_end_frees,
            abandoned_calls: self.counters.abandoned_calls,
            merged: self.merged,
            memory: self.memory,
            heap_pages: None,
            leak_check: None,
            taken_back: Tally::default(),
            holders: Vec::new(),
            scattered_growth: None,
            net_flow: None,
            window: None,
            timeline: None,
        }
    }
}
