//! The reasons why a trace saw not one allocation.

use std::fmt;

use super::snapshot::Snapshot;
use super::types::Pid;

/// Why not one allocation was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Silence {
    /// A process' memory grew by other means than malloc.
    GrewOtherwise {
        /// The process.
        pid: Pid,
        /// By how much, in words.
        sum: String,
        /// How much of it in which kind of memory, in words.
        parts: String,
    },
    /// Descendants of the named processes run, and were not traced.
    DescendantsLeftOut,
    /// Perhaps no block had a size within `--min-size` and `--max-size`.
    SizesFiltered,
    /// Nothing is known.
    Unexplained,
}

impl Silence {
    /// What there is to say of a snapshot by itself.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        if snapshot.options.filters_sizes() { Self::SizesFiltered } else { Self::Unexplained }
    }
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not one allocation was seen")?;
        match self {
            Self::GrewOtherwise { pid, sum, parts } => write!(
                f,
                ", but the memory of process {pid} grew by {sum} without malloc: {parts}; look for calls of mmap, brk or shmat \
                 in it, as by strace -k -e %memory"
            ),
            Self::DescendantsLeftOut => f.write_str(
                " in the processes named, which have descendants that run and are left out; trace without --no-follow",
            ),
            Self::SizesFiltered => {
                f.write_str(", which does not mean that nothing leaks; trace again without --min-size and --max-size")
            }
            Self::Unexplained => f.write_str(
                ", which does not mean that nothing leaks; trace for longer, or name the allocator with --object",
            ),
        }
    }
}
