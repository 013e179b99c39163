//! Where a process' memory grew without allocation functions: by mappings of its own, the program break, stacks.
//!
//! In: the mappings of a process now and earlier. Out: how many resident bytes were added, by kind.

use std::fmt;

use procfs::process::{MMapPath, Process};

use crate::model::Pid;

/// Less than this is no news, bytes: stacks and pages that are touched late.
const NOTEWORTHY: u64 = 1 << 20;

/// What memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Mappings without a file.
    Anonymous,
    /// What lies below the program break.
    Break,
    /// Of threads.
    Stack,
    /// Mappings of files.
    File,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "anonymous mappings (mmap)",
            Self::Break => "the heap (brk)",
            Self::Stack => "stacks",
            Self::File => "mappings of files",
        })
    }
}

/// Resident bytes of each mapping of a process.
#[derive(Debug, Default, Clone)]
pub struct Resident(Vec<(Kind, u64)>);

impl Resident {
    /// As they are now; `None` where the process is gone or may not be read. Takes the kernel a walk through all of its memory.
    pub fn of(pid: Pid) -> Option<Self> {
        let maps = Process::new(pid.0 as i32).ok()?.smaps().ok()?;
        let resident = maps.into_iter().map(|map| {
            let kind = match map.pathname {
                MMapPath::Heap => Kind::Break,
                MMapPath::Stack | MMapPath::TStack(_) => Kind::Stack,
                MMapPath::Path(_) => Kind::File,
                _ => Kind::Anonymous,
            };
            (kind, map.extension.map.get("Rss").copied().unwrap_or(0))
        });
        Some(Self(resident.collect()))
    }

    /// Estimates the mappings with which the running program began from those of now: what has no file came later.
    #[must_use]
    pub fn at_exec(mut self) -> Self {
        self.0.retain(|(kind, _)| *kind == Kind::File);
        self
    }

    /// How much more there is now than there was then, by kind, the largest first; growth below 1 MiB is left out.
    pub fn since(&self, then: &Self) -> Vec<(u64, Kind)> {
        let sum = |of: &Self, kind| of.0.iter().filter(|(it, _)| *it == kind).map(|(_, bytes)| bytes).sum::<u64>();
        let kinds = [Kind::Anonymous, Kind::Break, Kind::Stack, Kind::File];
        let grown = kinds.map(|kind| (sum(self, kind).saturating_sub(sum(then, kind)), kind));
        let mut grown: Vec<_> = grown.into_iter().filter(|(bytes, _)| *bytes >= NOTEWORTHY).collect();
        grown.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        grown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mapped_and_touched_is_found_under_its_kind() {
        let own = Pid(std::process::id());
        let before = Resident::of(own).unwrap();
        let mut mapped = memmap2::MmapMut::map_anon(64 << 20).unwrap();
        mapped.fill(1);
        let grown = Resident::of(own).unwrap().since(&before);
        let (bytes, kind) = &grown[0];
        assert_eq!(*kind, Kind::Anonymous);
        // Other tests run in this process, too.
        assert!(*bytes >= 60 << 20, "{bytes}");
    }
}
