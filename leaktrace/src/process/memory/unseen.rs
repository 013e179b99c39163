//! Pages of shared memory that are there and not in a process' page table: another process has written them, before a fork for
//! example, or the kernel has taken them out of the table, since the file in memory has them.
//!
//! In: a process of which nothing writes these pages meanwhile, its regions and the pages that it has. Out: the words of other pages
//! of its shared memory. They are read from the file in memory: reading them through the process would change its page table, and
//! may ask a handler of page faults (userfaultfd) that is stopped. Only regular files of tmpfs and hugetlbfs are opened, on which
//! nobody has a lease. (A watcher of that mount who has to allow it, see fanotify(7), can make it wait.)

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek64};

use super::{Region, RegionKind, Run};
use crate::model::Pid;
use crate::process::maps::parse;
use crate::ranges::{less, parts_within};

/// How much is read, bytes: a process waits.
const MOST: u64 = 64 << 20;
/// How many parts of files are asked for.
const MOST_PARTS: usize = 20_000;
/// How many mappings' files are opened.
const MOST_FILES: usize = 2_000;
/// And for how long: pages may have to come from disk.
const MOST_TIME: Duration = Duration::from_millis(50);
/// How much is read at once, bytes.
const PORTION: usize = 1 << 20;

/// What was found in these pages.
#[derive(Debug, Clone, Default)]
pub struct Unseen {
    /// Their words, each list of words that follow each other.
    pub words: Vec<Vec<u64>>,
    /// Bytes that are there, or may be, and were not read.
    pub unread: u64,
}

/// What may still be done, in all mappings together.
struct Budget {
    bytes: u64,
    parts: usize,
    files: usize,
    until: Instant,
}

impl Budget {
    fn new() -> Self {
        Self { bytes: MOST, parts: MOST_PARTS, files: MOST_FILES, until: Instant::now() + MOST_TIME }
    }

    /// Nothing more is done.
    fn is_spent(&self) -> bool {
        self.parts == 0 || self.files == 0 || Instant::now() > self.until
    }
}

impl Unseen {
    /// That of a process with these regions, of which it has these pages; both are by address.
    #[must_use]
    pub fn of(pid: Pid, regions: &[Region], runs: &[Run]) -> Self {
        let mut unseen = Self::default();
        let mut rest = Vec::new();
        for region in regions.iter().filter(|region| region.kind == RegionKind::Shared) {
            let range = region.start.0..region.end.0;
            let first = runs.partition_point(|run| run.end.0 <= range.start);
            let seen: Vec<Range<u64>> = runs[first..]
                .iter()
                .take_while(|run| run.start.0 < range.end)
                .map(|run| run.start.0.max(range.start)..run.end.0.min(range.end))
                .collect();
            let not_seen = less(std::slice::from_ref(&range), &seen);
            if !not_seen.is_empty() {
                rest.push((range, not_seen));
            }
        }
        if rest.is_empty() {
            return unseen;
        }
        let text = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        let offsets: HashMap<u64, u64> =
            parse(&text).filter_map(Result::ok).map(|mapping| (mapping.start.0, mapping.offset)).collect();
        let leased = leased();
        let mut budget = Budget::new();
        for (range, not_seen) in rest {
            let mut there = || {
                if budget.is_spent() {
                    return Err(io::ErrorKind::QuotaExceeded.into());
                }
                budget.files -= 1;
                let offset = *offsets.get(&range.start).ok_or(io::ErrorKind::NotFound)?;
                let file = open(pid, &range, &leased)?;
                Ok::<_, io::Error>((parts(&file, offset, &range, &mut budget.parts)?, file, offset))
            };
            match there() {
                Ok((there, file, offset)) => {
                    for part in parts_within(&not_seen, Range::clone, &there).into_iter().map(|(_, part)| part) {
                        unseen.read(&file, part.start - range.start + offset, part.end - part.start, &mut budget);
                    }
                }
                Err(error) => {
                    log::debug!("what process {pid} has not used of its shared memory is not known: {error}");
                    unseen.unread += not_seen.iter().map(|part| part.end - part.start).sum::<u64>();
                }
            }
        }
        unseen
    }

    fn read(&mut self, file: &File, offset: u64, bytes: u64, budget: &mut Budget) {
        if bytes > budget.bytes || budget.is_spent() {
            self.unread += bytes;
            return;
        }
        budget.bytes -= bytes;
        let mut words = Vec::with_capacity(bytes as usize / size_of::<u64>());
        let mut portion = vec![0; PORTION.min(bytes as usize)];
        let mut at = 0;
        while at < bytes {
            let wanted = portion.len().min((bytes - at) as usize);
            if budget.is_spent() || file.read_exact_at(&mut portion[..wanted], offset + at).is_err() {
                self.unread += bytes - at;
                break;
            }
            words.extend(portion[..wanted].as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)));
            at += wanted as u64;
        }
        self.words.push(words);
    }
}

/// Device and inode of files on which somebody has a lease, which is broken by whoever opens them (`/proc/locks`, proc(5)).
fn leased() -> Vec<(u64, u64)> {
    let text = fs::read_to_string("/proc/locks").unwrap_or_default();
    let leased = text.lines().filter(|line| line.split_ascii_whitespace().any(|word| word == "LEASE"));
    leased
        .filter_map(|line| {
            let file =
                line.split_ascii_whitespace().find(|word| word.bytes().filter(|byte| *byte == b':').count() == 2)?;
            let mut numbers = file.split(':');
            let mut device = || u64::from_str_radix(numbers.next()?, 16).ok();
            let device = libc::makedev(device()? as u32, device()? as u32);
            Some((device, numbers.next()?.parse().ok()?))
        })
        .collect()
}

/// The file of a mapping, if it is one of memory.
fn open(pid: Pid, range: &Range<u64>, leased: &[(u64, u64)]) -> io::Result<File> {
    let path = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
    // Names it, and asks nothing of it.
    let named = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    let status = named.metadata()?;
    let is_memory = matches!(fstatfs(&named)?.filesystem_type(), TMPFS_MAGIC | HUGETLBFS_MAGIC);
    if !status.is_file() || !is_memory || leased.contains(&(status.dev(), status.ino())) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let flags = libc::O_NONBLOCK | libc::O_NOATIME | libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(format!("/proc/self/fd/{}", named.as_raw_fd()))
}

/// Where in a mapping of a file from `offset` on there is something, by address; at most `left` parts.
fn parts(file: &File, offset: u64, range: &Range<u64>, left: &mut usize) -> io::Result<Vec<Range<u64>>> {
    let end = offset.saturating_add(range.end - range.start);
    let seek = |at: u64, whence| match lseek64(file, at.cast_signed(), whence) {
        Ok(at) => Ok(at.cast_unsigned()),
        // Nothing follows.
        Err(Errno::ENXIO) => Ok(u64::MAX),
        Err(error) => Err(io::Error::from(error)),
    };
    let (mut parts, mut at) = (Vec::new(), offset);
    while at < end {
        let data = seek(at, Whence::SeekData)?;
        if data >= end {
            break;
        }
        at = seek(data, Whence::SeekHole)?.min(end);
        if at <= data || *left == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        *left -= 1;
        parts.push(range.start + (data - offset)..range.start + (at - offset));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::process;

    use memmap2::MmapMut;

    use super::*;
    use crate::process::memory::{Survey, regions};

    #[test]
    fn pages_that_the_file_has_and_the_page_table_has_not_are_read() {
        const PAGE: usize = 4096;
        const MARK: u64 = 0x5eed_0000_1234_5678;
        // Private mappings are of no interest here.
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(8 * PAGE as u64).unwrap();
        file.write_all_at(&MARK.to_ne_bytes(), 5 * PAGE as u64).unwrap();
        // SAFETY: nobody shortens the file.
        let mut map = unsafe { MmapMut::map_mut(&file) }.unwrap();
        map[PAGE..PAGE + 8].copy_from_slice(&(MARK + 1).to_ne_bytes());
        let pid = Pid(process::id());
        let start = map.as_ptr() as u64;
        let is_it = |region: &Region| region.start.0 == start;
        let found = || {
            let survey = Survey::of(pid).unwrap();
            let regions: Vec<Region> = survey.regions.iter().filter(|region| is_it(region)).cloned().collect();
            let Unseen { words, unread } = Unseen::of(pid, &regions, &survey.runs);
            let mut words: Vec<u64> = words.into_iter().flatten().filter(|word| *word != 0).collect();
            words.sort_unstable();
            (words, unread)
        };
        assert_eq!(found(), (vec![MARK], 0));
        // SAFETY: the file keeps the pages.
        unsafe { libc::madvise(map.as_mut_ptr().cast(), map.len(), libc::MADV_DONTNEED) };
        assert_eq!(found(), (vec![MARK, MARK + 1], 0));
        assert_eq!(map[5 * PAGE..][..8], MARK.to_ne_bytes());
        assert!(!found().0.contains(&MARK), "what was read is in the page table, and the pages around it may be");
    }

    #[test]
    fn a_lease_is_not_broken_and_what_is_not_read_is_counted() {
        const PAGE: usize = 4096;
        let file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.set_len(4 * PAGE as u64).unwrap();
        file.write_all_at(&[1; 8], 0).unwrap();
        // SAFETY: nobody shortens the file.
        let map = unsafe { MmapMut::map_mut(&file) }.unwrap();
        let (pid, start) = (Pid(process::id()), map.as_ptr() as u64);
        let region = regions(pid).unwrap().into_iter().find(|region| region.start.0 == start).unwrap();
        let found = || Unseen::of(pid, std::slice::from_ref(&region), &[]);
        assert_eq!((found().words.len(), found().unread), (1, 0));
        let lease = |command: i32, value: i32| {
            // SAFETY: asks and changes nothing but the lease of this file.
            unsafe { libc::fcntl(file.as_raw_fd(), command, value) }
        };
        assert_eq!(lease(libc::F_SETLEASE, libc::F_WRLCK), 0, "{}", io::Error::last_os_error());
        assert_eq!((found().words.len(), found().unread), (0, region.bytes()));
        assert_eq!(lease(libc::F_GETLEASE, 0), libc::F_WRLCK, "nobody has opened it");
        assert_eq!(lease(libc::F_SETLEASE, libc::F_UNLCK), 0);
    }
}
