//! The small types that give numbers their meaning across modules.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A process as the kernel's tgid in the initial pid namespace names it (what users call a pid).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pid(pub u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A virtual address in a traced process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// One resolved frame. Inlined functions are frames of their own, innermost first, followed by the function that
/// holds their code.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The address as captured: the return address, for every frame but a signal frame's interrupted instruction.
    pub address: Address,
    /// Demangled name; `None` where no symbol covers the address (never the nearest one past its size).
    pub function: Option<String>,
    /// The mapped object's path as the process sees it, or the kernel's name for the mapping (`[vdso]`, `[anon]`).
    pub module: Option<PathBuf>,
    /// The address in the object's own numbering (ELF virtual address), stable across runs.
    pub module_offset: Option<u64>,
    /// Source file as the debug information gives it.
    pub file: Option<PathBuf>,
    /// Source line, 1-based.
    pub line: Option<u32>,
    /// True for a function inlined into the frame that follows.
    pub inlined: bool,
}
