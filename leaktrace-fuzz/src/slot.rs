//! Where the input under test lies: a file mapped by the process that runs it and by the one that watches, so that it is
//! still there after the former has ended in whatever way.

use anyhow::{Context as _, Result};
use memmap2::MmapMut;
use std::fs::File;
use std::path::Path;

/// No input is longer, bytes.
pub const LONGEST: usize = 1 << 20;
/// Before the input: its length plus one, so that 0 means that there was none yet.
const HEADER: usize = 8;

pub struct Slot {
    bytes: MmapMut,
}

impl Slot {
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.with_context(|| format!("creating {}", path.display()))?;
        file.set_len((HEADER + LONGEST) as u64)?;
        Self::map(&file)
    }

    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        Self::map(&file.with_context(|| format!("opening {}", path.display()))?)
    }

    fn map(file: &File) -> Result<Self> {
        // SAFETY: only this program's two processes use the file; the one reads after the other has ended, and nobody
        // shortens it.
        let bytes = unsafe { MmapMut::map_mut(file) }.context("mapping the input under test")?;
        Ok(Self { bytes })
    }

    /// Puts an input there.
    pub fn write(&mut self, input: &[u8]) {
        let length = input.len().min(LONGEST);
        self.bytes[..HEADER].copy_from_slice(&(length as u64 + 1).to_le_bytes());
        self.bytes[HEADER..HEADER + length].copy_from_slice(&input[..length]);
    }

    /// The last input that was put there.
    pub fn read(&self) -> Option<Vec<u8>> {
        let length = u64::from_le_bytes(*self.bytes.first_chunk()?).checked_sub(1)?;
        self.bytes.get(HEADER..HEADER + usize::try_from(length).ok()?).map(<[u8]>::to_vec)
    }
}
