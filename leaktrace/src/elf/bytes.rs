//! Where the bytes of an ELF file come from.
//!
//! What a header claims is trusted as far as the file reaches, and up to a limit: a sparse file may claim terabytes.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The most bytes that one read of a file returns.
const MAX_READ: u64 = 1 << 30;
/// The longest file whose checksum is taken, bytes.
const MAX_SUMMED: u64 = 4 << 30;

/// Bytes that can be read by their offset.
pub trait Bytes {
    /// A run of bytes: a slice of memory, or a copy.
    type Run: Deref<Target = [u8]>;

    /// The `length` bytes from `offset` on, all of them.
    ///
    /// # Errors
    /// Some of them are not there, cannot be read, or are more than is read at once.
    fn run(&self, offset: u64, length: u64) -> io::Result<Self::Run>;
}

impl<'a> Bytes for &'a [u8] {
    type Run = &'a [u8];

    fn run(&self, offset: u64, length: u64) -> io::Result<&'a [u8]> {
        let start = usize::try_from(offset).map_err(|_| too_short())?;
        let end = end_of(offset, length)? as usize;
        self.get(start..end).ok_or_else(too_short)
    }
}

/// A file that is read by `pread(2)` as it is asked for, or a copy in memory.
#[derive(Debug)]
pub enum Stored {
    /// An open file, read up to the length that it had when it was given.
    File {
        /// The file.
        file: Arc<File>,
        /// Its length, bytes.
        size: u64,
    },
    /// All of it.
    Memory(Vec<u8>),
}

impl Stored {
    /// Reads the file's length.
    ///
    /// # Errors
    /// That cannot be read.
    pub fn file(file: Arc<File>) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self::File { file, size })
    }

    /// CRC-32 of the whole file, as a debug link records it.
    ///
    /// # Errors
    /// It cannot be read, or is longer than 4 GiB.
    pub fn crc32(&self) -> io::Result<u32> {
        let (file, size) = match self {
            Self::Memory(bytes) => return Ok(crc32fast::hash(bytes)),
            Self::File { size, .. } if *size > MAX_SUMMED => return Err(io::Error::other("it is longer than 4 GiB")),
            Self::File { file, size } => (file, *size),
        };
        let mut hasher = crc32fast::Hasher::new();
        let mut chunk = vec![0; 1024 * 1024];
        let mut position = 0;
        // Not beyond the length that it had when it was opened: it may grow as fast as it is read.
        while position < size {
            let wanted = chunk.len().min((size - position) as usize);
            let read = file.read_at(&mut chunk[..wanted], position)?;
            if read == 0 {
                break;
            }
            hasher.update(&chunk[..read]);
            position += read as u64;
        }
        Ok(hasher.finalize())
    }
}

impl Bytes for Stored {
    type Run = Vec<u8>;

    /// Errors rather than allocates when a header claims more than the file holds.
    fn run(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        match self {
            Self::Memory(bytes) => bytes.as_slice().run(offset, length).map(<[u8]>::to_vec),
            Self::File { file, size } => read(file, *size, offset, length),
        }
    }
}

/// A file whose length is known, for as long as a look at it takes.
#[derive(Debug)]
pub struct Opened<'a> {
    file: &'a File,
    size: u64,
}

impl<'a> Opened<'a> {
    /// Reads the file's length; a file whose length cannot be read has no bytes.
    #[must_use]
    pub fn new(file: &'a File) -> Self {
        Self { file, size: file.metadata().map_or(0, |status| status.len()) }
    }
}

impl Bytes for Opened<'_> {
    type Run = Vec<u8>;

    fn run(&self, offset: u64, length: u64) -> io::Result<Vec<u8>> {
        read(self.file, self.size, offset, length)
    }
}

fn read(file: &File, size: u64, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    if end_of(offset, length)? > size {
        return Err(too_short());
    }
    if length > MAX_READ {
        return Err(io::Error::other("one of its sections is longer than 1 GiB"));
    }
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn end_of(offset: u64, length: u64) -> io::Result<u64> {
    offset.checked_add(length).ok_or_else(too_short)
}

fn too_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than its headers say")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_file_that_has_grown_is_that_of_what_was_opened() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abcdefgh", 0).unwrap();
        let opened = Stored::File { file: Arc::new(file), size: 4 };
        assert_eq!(opened.crc32().unwrap(), crc32fast::hash(b"abcd"));
    }

    #[test]
    fn what_is_claimed_beyond_the_end_is_not_there() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abcdefgh", 0).unwrap();
        let opened = Opened::new(&file);
        assert_eq!(opened.run(2, 3).unwrap(), b"cde");
        let memory = &b"abcdefgh"[..];
        assert_eq!(memory.run(2, 3).unwrap(), b"cde");
        for (offset, length) in [(0, 9), (8, 1), (9, 0), (u64::MAX, 1), (1, u64::MAX), (0, 1 << 40)] {
            assert!(opened.run(offset, length).is_err(), "{offset} {length}");
            assert!(memory.run(offset, length).is_err(), "{offset} {length}");
        }
    }

    #[test]
    fn of_a_sparse_file_no_more_than_a_gibibyte_is_read_at_once() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(Opened::new(&file).run(0, MAX_READ + 1).is_err());
    }
}
