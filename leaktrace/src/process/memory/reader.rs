//! Copies of a process' memory.
//!
//! In: runs of pages that are there. Out: their words, and how many bytes could be read. What cannot be read is zero in the
//! copy, and never keeps the rest from being read.

use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{iovec, pid_t};

use super::batches::PIECES;
use super::pages::page_size;
use super::{MemoryError, Run};
use crate::model::{Address, Pid};

/// What became of a reading, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filled {
    /// These were copied.
    pub read: u64,
    /// These could not be, and are zero.
    pub unreadable: u64,
}

impl std::ops::AddAssign for Filled {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.unreadable += other.unreadable;
    }
}

/// Reads the memory of one process. Threads can share it.
#[derive(Debug)]
pub struct Reader {
    pid: pid_t,
    memory: File,
    page: u64,
    /// `process_vm_readv(2)` is denied here, by a seccomp filter for example, or the kernel has none.
    denied: AtomicBool,
}

/// Where a reading has come to.
struct Place {
    /// Index in the pieces.
    piece: usize,
    address: u64,
}

impl Reader {
    /// Opens the memory of the program that `pid` runs now.
    ///
    /// # Errors
    /// It may not be read, or is gone.
    pub fn open(pid: Pid) -> Result<Self, MemoryError> {
        let memory = File::open(format!("/proc/{pid}/mem")).map_err(|error| MemoryError::of(pid, "mem", error))?;
        Ok(Self { pid: pid.0 as pid_t, memory, page: page_size(), denied: AtomicBool::new(false) })
    }

    /// Copies `pieces`, one after another, to the beginning of `words`. Whole words are expected of each, as of runs of pages;
    /// what does not fit is left out. A portion of [`super::Batches`] takes one system call, unless a part is unreadable.
    pub fn fill(&self, pieces: &[Run], words: &mut [u64]) -> Filled {
        let buffer = bytes_of(words);
        let wanted: u64 = pieces.iter().map(Run::bytes).sum();
        let wanted = wanted.min(buffer.len() as u64) as usize;
        let buffer = &mut buffer[..wanted];
        let (mut done, mut unreadable) = (0, 0);
        while let Some(place) = place(pieces, done).filter(|_| done < wanted) {
            let error = match self.read(pieces, &place, &mut buffer[done..]) {
                Ok(count) if count > 0 => {
                    done += count;
                    continue;
                }
                Ok(_) => None,
                Err(error) => error.raw_os_error(),
            };
            // Only of a page that cannot be read the next one may be. A process that is gone has none.
            let skipped = if matches!(error, Some(libc::EFAULT | libc::EIO | libc::ENOMEM | libc::EHWPOISON)) {
                let end_of_page = (place.address | (self.page - 1)).saturating_add(1);
                let end = end_of_page.min(pieces[place.piece].end.0);
                ((end - place.address) as usize).min(wanted - done)
            } else {
                wanted - done
            };
            buffer[done..done + skipped].fill(0);
            unreadable += skipped;
            done += skipped;
        }
        Filled { read: (wanted - unreadable) as u64, unreadable: unreadable as u64 }
    }

    /// Copies `words` from one address on. The caller knows that these pages are there.
    pub fn read_at(&self, address: Address, words: &mut [u64]) -> Filled {
        let end = Address(address.0.saturating_add(mem::size_of_val(words) as u64));
        self.fill(&[Run { start: address, end, swapped: false, forced: false }], words)
    }

    /// Fills `bytes` from `address` on, also from pages that are not there yet: for what a program's file contains.
    ///
    /// # Errors
    /// Some of it cannot be read.
    pub fn read_exact(&self, address: Address, bytes: &mut [u8]) -> io::Result<()> {
        self.memory.read_exact_at(bytes, address.0)
    }

    /// Copies from `place` on until something cannot be read, and gives the number of bytes.
    fn read(&self, pieces: &[Run], place: &Place, buffer: &mut [u8]) -> io::Result<usize> {
        let first = &pieces[place.piece];
        if !first.forced && !self.denied.load(Ordering::Relaxed) {
            match self.read_many(pieces, place, buffer) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                    self.denied.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        // This reads also what the process itself may not (from Linux 6.12 on some kernels permit that only to the thread that
        // traces it), and devices. Those are not among the regions, and pages that have become unreadable are not tried again.
        let length = ((first.end.0 - place.address) as usize).min(buffer.len());
        self.memory.read_at(&mut buffer[..length], place.address)
    }

    /// By `process_vm_readv(2)`, from all pieces that need no force.
    fn read_many(&self, pieces: &[Run], place: &Place, buffer: &mut [u8]) -> io::Result<usize> {
        let mut remote = [iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PIECES];
        let rest = pieces[place.piece..].iter().take_while(|piece| !piece.forced);
        let mut count = 0;
        for (slot, piece) in remote.iter_mut().zip(rest) {
            let start = if count == 0 { place.address } else { piece.start.0 };
            // An address in the other process, which nothing here follows.
            *slot = iovec {
                iov_base: ptr::without_provenance_mut(start as usize),
                iov_len: (piece.end.0 - start) as usize,
            };
            count += 1;
        }
        let local = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: the kernel writes at most `iov_len` bytes to `buffer`, and only reads the arrays.
        let read = unsafe { libc::process_vm_readv(self.pid, &raw const local, 1, remote.as_ptr(), count, 0) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

/// Where in `pieces` the byte number `done` is; `None` beyond the last.
fn place(pieces: &[Run], done: usize) -> Option<Place> {
    let mut left = done as u64;
    for (index, piece) in pieces.iter().enumerate() {
        if left < piece.bytes() {
            return Some(Place { piece: index, address: piece.start.0 + left });
        }
        left -= piece.bytes();
    }
    None
}

/// The bytes that words consist of.
fn bytes_of(words: &mut [u64]) -> &mut [u8] {
    // SAFETY: every byte of a word is a byte, and every eight bytes are a word; the borrow is passed on.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), mem::size_of_val(words)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three pages, of which the second cannot be read.
    struct Holed(memmap2::MmapMut);

    impl Holed {
        fn new() -> Self {
            let page = page_size() as usize;
            let mut map = memmap2::MmapMut::map_anon(3 * page).unwrap();
            map.fill(0x11);
            // SAFETY: only takes away the right to read a page, which nothing reads from here on.
            unsafe { libc::mprotect(map[page..].as_mut_ptr().cast(), page, libc::PROT_NONE) };
            Self(map)
        }

        fn run(&self, forced: bool) -> Run {
            let start = self.0.as_ptr() as u64;
            Run { start: Address(start), end: Address(start + 3 * page_size()), swapped: false, forced }
        }
    }

    #[test]
    fn what_cannot_be_read_is_zero_and_counted() {
        let (holed, page) = (Holed::new(), page_size());
        let reader = Reader::open(Pid(std::process::id())).unwrap();
        let mut words = vec![7; 3 * page as usize / 8 + 1];
        assert_eq!(reader.fill(&[holed.run(false)], &mut words), Filled { read: 2 * page, unreadable: page });
        let expected: Vec<u64> = [0x1111_1111_1111_1111, 0, 0x1111_1111_1111_1111, 7]
            .into_iter()
            .zip([page / 8, page / 8, page / 8, 1])
            .flat_map(|(word, count)| std::iter::repeat_n(word, count as usize))
            .collect();
        assert!(words == expected);
    }

    #[test]
    fn by_force_everything_is_read_that_is_there() {
        let (holed, page) = (Holed::new(), page_size());
        let mut words = vec![0; 3 * page as usize / 8];
        let reader = Reader::open(Pid(std::process::id())).unwrap();
        assert_eq!(reader.fill(&[holed.run(true)], &mut words), Filled { read: 3 * page, unreadable: 0 });
        assert!(words.iter().all(|word| *word == 0x1111_1111_1111_1111));
        // What is read instead of a system call that is denied.
        words.fill(0);
        let denied = Reader { denied: AtomicBool::new(true), ..reader };
        assert_eq!(denied.fill(&[holed.run(false)], &mut words), Filled { read: 3 * page, unreadable: 0 });
    }

    #[test]
    fn many_pieces_are_read_one_after_another() {
        let numbers: Vec<u64> = (0..1024).collect();
        let start = numbers.as_ptr() as u64;
        // Every second word, more pieces than one call takes.
        let pieces: Vec<Run> = (0..512)
            .map(|index| start + index * 16)
            .map(|at| Run { start: Address(at), end: Address(at + 8), swapped: false, forced: false })
            .collect();
        let reader = Reader::open(Pid(std::process::id())).unwrap();
        let mut words = vec![0; 512];
        assert_eq!(reader.fill(&pieces, &mut words), Filled { read: 4096, unreadable: 0 });
        assert!(words.iter().copied().eq((0..512).map(|index| index * 2)));
        let mut few = [0; 3];
        assert_eq!(reader.fill(&pieces, &mut few), Filled { read: 24, unreadable: 0 });
        assert_eq!(few, [0, 2, 4]);
        assert_eq!(reader.read_at(Address(start + 80), &mut few), Filled { read: 24, unreadable: 0 });
        assert_eq!(few, [10, 11, 12]);
        let mut bytes = [0; 10];
        reader.read_exact(Address(start + 8), &mut bytes).unwrap();
        assert_eq!(bytes, [1, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        assert!(reader.read_exact(Address(8), &mut bytes).is_err());
    }

    #[test]
    fn of_a_process_that_has_ended_nothing_is_read() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let reader = Reader::open(Pid(child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let mut words = [1; 4];
        assert_eq!(reader.read_at(Address(0x1000), &mut words), Filled { read: 0, unreadable: 32 });
        assert_eq!(words, [0; 4]);
        assert!(matches!(Reader::open(Pid(child.id())), Err(MemoryError::Ended(_))));
    }
}
