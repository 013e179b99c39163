//! A copy as others have it, and what the thread that traces it and its process is told.
//!
//! In: the copy's process id. Out: what of the process' memory it does not have; its end when it is dropped.

use std::fs;
use std::ops::Range;
use std::sync::mpsc::{self, Sender};

use super::{Plan, Refused};
use crate::model::Pid;
use crate::process::maps::{Mapping, parse};

/// What the thread that has stopped a process is told.
#[derive(Debug)]
pub(in crate::process) enum Order {
    /// Make a copy, and answer with its process id and the process' list of mappings.
    Copy(Plan, Sender<Result<(Pid, Vec<u8>), Refused>>),
    /// Let the process go.
    Release,
    /// Kill this copy, and answer.
    End(Pid, Sender<()>),
}

/// A copy of a process as it was when it was stopped. Its memory is read by its process id. Killed when it is dropped, which waits for
/// that.
#[derive(Debug)]
#[must_use = "the copy is killed as soon as this is dropped"]
pub struct Fork {
    pid: Pid,
    /// `/proc/PID/maps` of the process when it was copied.
    mappings: Vec<u8>,
    /// The thread that traces it.
    orders: Sender<Order>,
}

impl Fork {
    pub(in crate::process) fn new(pid: Pid, mappings: Vec<u8>, orders: Sender<Order>) -> Self {
        Self { pid, mappings, orders }
    }

    /// The copy's own process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The memory of the process that the copy does not have, by address: what its program keeps from children. Takes some
    /// milliseconds for each GB, so it is better asked for when the process runs again.
    ///
    /// # Errors
    /// The copy is gone: somebody has killed it.
    pub fn unread(&self) -> Result<Vec<Range<u64>>, Refused> {
        let smaps = fs::read(format!("/proc/{}/smaps", self.pid))
            .map_err(|error| Refused::kernel(self.pid, "reading its mappings", error))?;
        if smaps.is_empty() {
            return Err(Refused::Ended(self.pid));
        }
        Ok(missing(&self.mappings, &String::from_utf8_lossy(&smaps)))
    }
}

impl Drop for Fork {
    fn drop(&mut self) {
        let (done, is_done) = mpsc::channel();
        // If the thread is gone so is the copy.
        if self.orders.send(Order::End(self.pid, done)).is_ok() {
            let _ = is_done.recv();
        }
    }
}

/// What a process' program keeps from its children (`MADV_DONTFORK`, `MADV_WIPEONFORK`), by address. Takes some milliseconds for each GB.
///
/// # Errors
/// The process is gone, or may not be read.
pub fn kept_from_children(pid: Pid) -> Result<Vec<Range<u64>>, Refused> {
    let smaps =
        fs::read(format!("/proc/{pid}/smaps")).map_err(|error| Refused::kernel(pid, "reading its mappings", error))?;
    let (mut kept, mut present) = (Vec::new(), None);
    for line in String::from_utf8_lossy(&smaps).lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            // `VM_DONTCOPY` and `VM_WIPEONFORK` as fs/proc/task_mmu.c shows them.
            kept.extend(present.take().filter(|_| flags.split(' ').any(|flag| matches!(flag, "dc" | "wf"))));
        } else if let Some(Ok(mapping)) = parse(line.as_bytes()).next() {
            present = Some(mapping.start.0..mapping.end.0);
        }
    }
    Ok(kept)
}

/// What is mapped in `before` but not in the copy, or empty there.
fn missing(before: &[u8], smaps: &str) -> Vec<Range<u64>> {
    let mut copied: Vec<Range<u64>> = Vec::new();
    let mut present = None;
    for line in smaps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            // `VM_WIPEONFORK` as fs/proc/task_mmu.c shows it.
            copied.extend(present.take().filter(|_| !flags.split(' ').any(|flag| flag == "wf")));
        } else if let Some(Ok(mapping)) = parse(line.as_bytes()).next() {
            present = Some(mapping.start.0..mapping.end.0);
        }
    }
    let mut missing = Vec::new();
    // The kernel's own, which is in no copy.
    let is_memory = |mapping: &Mapping<'_>| mapping.name.display().as_os_str() != "[uprobes]";
    for mapping in parse(before).filter_map(Result::ok).filter(is_memory) {
        let mut start = mapping.start.0;
        for there in copied.iter().filter(|there| there.start < mapping.end.0 && mapping.start.0 < there.end) {
            if start < there.start {
                missing.push(start..there.start);
            }
            start = start.max(there.end);
        }
        if start < mapping.end.0 {
            missing.push(start..mapping.end.0);
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_keeps_from_its_children_is_missing() {
        let line = |start: u64, end: u64| format!("{start:x}-{end:x} rw-p 00000000 00:00 0 \n");
        let before = [line(0x1000, 0x3000), line(0x3000, 0x5000), line(0x8000, 0x9000)].concat();
        let before = before + "7fffffffe000-7ffffffff000 --xp 00000000 00:00 0 [uprobes]\n";
        let entry = |start, end, flags| format!("{}Size: 8 kB\nVmFlags: rd wr {flags} \n", line(start, end));
        let all = [entry(0x1000, 0x3000, "mr"), entry(0x3000, 0x5000, "ac"), entry(0x8000, 0x9000, "ac")].concat();
        assert!(missing(before.as_bytes(), &all).is_empty());
        let some = [entry(0x1000, 0x2000, "mr"), entry(0x4000, 0x5000, "ac"), entry(0x8000, 0x9000, "wf")].concat();
        assert_eq!(missing(before.as_bytes(), &some), [0x2000..0x3000, 0x3000..0x4000, 0x8000..0x9000]);
    }
}
