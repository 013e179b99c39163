//! The small types that give numbers their meaning across modules.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::notation::{hex, lossy_path, optional_hex};

/// A process as the kernel's tgid in the initial pid namespace names it (what users call a pid).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pid(pub u32);

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A virtual address in a traced process. In JSON a string such as `"0x7f0012345678"`, since JSON's numbers lose the low
/// bits of large integers in many readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(#[serde(with = "hex")] pub u64);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// One resolved frame. Inlined functions are frames of their own, innermost first, followed by the function that
/// holds their code.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// Demangled name; `None` where no symbol covers the address (never the nearest one past its size).
    #[serde(default)]
    pub function: Option<String>,
    /// Its name in the object's symbol table, where that differs: C++ and Rust mangle names, and a function of the C library may have
    /// several. Suppression files name functions so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symbol: Option<String>,
    /// The mapped object's path as the process sees it, or the kernel's name for the mapping (`[vdso]`, `[anon]`).
    #[serde(default, serialize_with = "lossy_path")]
    pub module: Option<PathBuf>,
    /// Source file as the debug information gives it.
    #[serde(default, serialize_with = "lossy_path")]
    pub file: Option<PathBuf>,
    /// Source line, 1-based.
    #[serde(default)]
    pub line: Option<u32>,
    /// True for a function inlined into the frame that follows.
    #[serde(default)]
    pub inlined: bool,
    /// The return address, or a signal frame's interrupted instruction. For an object that was mapped at several addresses
    /// it is one of them; for one whose mapping was replaced by others, a number beyond all addresses of processes (from 1
    /// << 63).
    pub address: Address,
    /// The address in the object's own numbering (ELF virtual address), stable across runs.
    #[serde(default, with = "optional_hex")]
    pub module_offset: Option<u64>,
}

impl Frame {
    /// A frame of which nothing is known but its address.
    #[must_use]
    pub fn unresolved(address: Address) -> Self {
        Self {
            function: None,
            symbol: None,
            module: None,
            file: None,
            line: None,
            inlined: false,
            address,
            module_offset: None,
        }
    }

    /// The function, or `module+0xoffset` where no symbol covers the address, or the bare address. It may hold any characters.
    #[must_use]
    pub fn name(&self) -> String {
        match (&self.function, &self.module, self.module_offset) {
            (Some(function), _, _) if !function.is_empty() => function.clone(),
            (_, Some(module), Some(offset)) => {
                let file_name = module.file_name().unwrap_or(module.as_os_str());
                format!("{}+{offset:#x}", file_name.to_string_lossy())
            }
            _ => self.address.to_string(),
        }
    }
}
