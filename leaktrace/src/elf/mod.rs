//! Reading ELF files that somebody else can write: the one reader for all who need a part of them.
//!
//! In: an open file, a copy of one, or a process' memory. Out: its headers, symbols, notes and relocations as plain values.
//! Every offset, size and count in a file is checked before it is followed, and trusted up to stated limits. **Never** a
//! mapping of the file: whoever truncates a mapped file kills its reader by SIGBUS.
//!
//! The rooms that probe, unwind or name interpret these values. Nothing else names the crate `object`.

mod bytes;
mod compression;
mod copy;
mod dynamic;
mod header;
mod notes;
mod relocations;
mod sections;
mod segments;
mod strings;
mod symbols;

pub use bytes::{Bytes, Opened, Stored};
pub use compression::{unpack, unpacked_size};
pub use copy::{CopyError, sealed, what_is_loaded};
pub use dynamic::{DYNAMIC_ENTRY_SIZE, Dynamic};
pub use header::{Elf, ElfError, FileKind, HEADER_SIZE, Header, Ident, Machine};
pub use notes::{build_id, has_note_of, probe_points};
pub use relocations::{Relocation, relocations};
pub use sections::{Section, SectionKind};
pub use segments::{PROGRAM_HEADER_SIZE, Segment, SegmentKind, parse as segments};
pub use strings::{Strings, terminated};
pub use symbols::{Home, Symbol, SymbolKind, Symbols, count_by_hash_tables};
