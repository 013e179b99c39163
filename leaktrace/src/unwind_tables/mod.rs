//! From an object's `.eh_frame` to the table of 8-byte rows that the kernel program unwinds by.
//!
//! In: the bytes of an ELF object, which may be hostile. Out: an [`UnwindTable`]: rows sorted by address, padded to the
//! chunks of [`leaktrace_common::unwind`], and what is needed to place them in a process. The object's own size bounds every
//! cost: the length of `.eh_frame` the time, the size of the text the memory.
//!
//! Invariant: pure. No /proc, no aya, no clock; nothing that an object contains makes this panic.

mod caller;
mod cfi;
mod expression;
mod pool;
mod registry;
mod rows;
mod rules;
mod unwindable;

use std::fmt;

use leaktrace_common::unwind::{Chunk, Row, Rule, lookup};

pub use caller::{Frame, INSTRUCTION, STACK_POINTER, caller};
pub use pool::ChunkPool;
pub use registry::{Code, CodeMapping, PoolWriter, PublishError, Registry};

use crate::elf::Segment;

/// Why an object has no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Not an ELF file of this machine, or its headers contradict themselves.
    #[error("not a little-endian x86-64 ELF object: {0}")]
    NotElf(String),
    /// No segment of it is executable.
    #[error("no executable segment")]
    NoText,
    /// Neither a section `.eh_frame` nor a segment `PT_GNU_EH_FRAME`, or they lie outside the file.
    #[error("no .eh_frame")]
    NoUnwindInformation,
    /// More unwind information than code of this size can need; not built, to stay within bounds.
    #[error("{what} ({found}) is more than {limit}, the most that code of its size can need")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much is allowed.
        limit: u64,
    },
}

/// The unwind table of one object, independent of where it is mapped.
#[derive(Clone, PartialEq, Eq)]
pub struct UnwindTable {
    words: Vec<u64>,
    rows: usize,
    base: u64,
    text: Vec<Segment>,
}

impl UnwindTable {
    /// Builds the table of the ELF object in `data`.
    ///
    /// # Errors
    /// Where the object has no usable unwind information, or more than its code can need. A function whose own
    /// information is broken is not an error: its rows end walks with a reason.
    pub fn build(data: &[u8]) -> Result<Self, TableError> {
        let object = unwindable::Unwindable::parse(data)?;
        let rows = cfi::rows(&object)?;
        Ok(Self { rows: rows.len(), words: rows::into_chunk_words(rows), base: object.base, text: object.text })
    }

    /// The rows in chunks, the last one padded.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        self.words.as_chunks().0
    }

    /// The rows without the padding.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row> + '_ {
        self.words[..self.rows].iter().map(|&word| Row::from_bits(word))
    }

    /// The same object's table without its rows: enough for [`Self::base_in_process`].
    #[must_use]
    pub fn without_rows(&self) -> Self {
        Self { words: Vec::new(), rows: 0, base: self.base, text: self.text.clone() }
    }

    /// Memory that the table takes in the kernel, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of_val(self.words.as_slice())
    }

    /// The rule for an address in the object's own numbering.
    #[must_use]
    pub fn rule_at(&self, vaddr: u64) -> Rule {
        match vaddr.checked_sub(self.base).and_then(|pc| u32::try_from(pc).ok()) {
            Some(pc) => lookup(self.chunks(), 0, self.chunks().len() as u32, pc),
            None => Rule::GAP,
        }
    }

    /// The address in a process that corresponds to row address 0, if the object's bytes from `file_offset` on are mapped at
    /// `start`. `None` if that part of the file is not executable code of the object.
    #[must_use]
    pub fn base_in_process(&self, start: u64, file_offset: u64) -> Option<u64> {
        // Two segments may share a page of the file: the mapping then belongs to the segment that starts in that page.
        let segment = self.text.iter().rfind(|segment| segment.holds_offset_from_its_page(file_offset))?;
        Some(start.wrapping_sub(segment.address_of(file_offset).wrapping_sub(self.base)))
    }

    /// What to add to a file offset, modulo 2^64, to get a row address; `None` if that differs between the object's code
    /// segments.
    #[must_use]
    pub fn shift(&self) -> Option<u64> {
        let shift = |segment: &Segment| segment.address.wrapping_sub(segment.offset).wrapping_sub(self.base);
        let first = shift(self.text.first()?);
        self.text.iter().all(|segment| shift(segment) == first).then_some(first)
    }
}

impl fmt::Debug for UnwindTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnwindTable {{ {} rows from {:#x}, text: {:?} }}", self.rows, self.base, self.text)
    }
}

#[cfg(test)]
mod tests;
