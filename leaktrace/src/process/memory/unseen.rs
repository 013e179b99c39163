//! Pages of shared memory that are there and not in a process' page table: another process has written them, before a fork for
//! example, or the kernel has taken them out of the table, since the file in memory has them.
//!
//! In: a process of which nothing runs, its regions and the pages that it has. Out: the words of other pages of its shared memory.
//! They are read from the file in memory: reading them through the process would change its page table, and may ask a handler of
//! page faults (userfaultfd) that is stopped. Of a file of memory nothing is asked that may not be answered.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

use super::{Region, RegionKind, Run};
use crate::model::Pid;
use crate::process::maps::parse;
use crate::ranges::less;

/// How much is read, bytes: a process waits.
const MOST: u64 = 64 << 20;
/// How many parts of a file are asked for.
const MOST_PARTS: usize = 20_000;
/// How much is read at once, bytes.
const PORTION: usize = 1 << 20;
/// No block is below.
const LOWEST: u64 = 1 << 16;

/// What was found in these pages.
#[derive(Debug, Clone, Default)]
pub struct Unseen {
    /// All words that may be pointers.
    pub words: Vec<u64>,
    /// Bytes that are there, or may be, and were not read.
    pub unread: u64,
}

impl Unseen {
    /// That of a process with these regions, of which it has these pages; both are by address.
    #[must_use]
    pub fn of(pid: Pid, regions: &[Region], runs: &[Run]) -> Self {
        let mut unseen = Self::default();
        let shared: Vec<&Region> = regions.iter().filter(|region| region.kind == RegionKind::Shared).collect();
        if shared.is_empty() {
            return unseen;
        }
        let text = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
        let offsets: HashMap<u64, u64> =
            parse(&text).filter_map(Result::ok).map(|mapping| (mapping.start.0, mapping.offset)).collect();
        let mut left = MOST;
        for region in shared {
            let range = region.start.0..region.end.0;
            let first = runs.partition_point(|run| run.end.0 <= range.start);
            let seen: Vec<Range<u64>> = runs[first..]
                .iter()
                .take_while(|run| run.start.0 < range.end)
                .map(|run| run.start.0.max(range.start)..run.end.0.min(range.end))
                .collect();
            let there = || {
                let offset = *offsets.get(&range.start).ok_or(io::ErrorKind::NotFound)?;
                let file = open(pid, &range)?;
                Ok::<_, io::Error>((parts(&file, offset, &range)?, file, offset))
            };
            match there() {
                Ok((there, file, offset)) => {
                    for part in less(&there, &seen) {
                        unseen.read(&file, part.start - range.start + offset, part.end - part.start, &mut left);
                    }
                }
                Err(error) => {
                    log::debug!("what process {pid} has not used of its shared memory is not known: {error}");
                    unseen.unread += less(&[range], &seen).iter().map(|part| part.end - part.start).sum::<u64>();
                }
            }
        }
        unseen
    }

    fn read(&mut self, file: &File, offset: u64, bytes: u64, left: &mut u64) {
        if bytes > *left {
            self.unread += bytes;
            return;
        }
        *left -= bytes;
        let mut portion = vec![0; PORTION.min(bytes as usize)];
        let mut at = 0;
        while at < bytes {
            let wanted = portion.len().min((bytes - at) as usize);
            if file.read_exact_at(&mut portion[..wanted], offset + at).is_err() {
                self.unread += bytes - at;
                return;
            }
            let words = portion[..wanted].as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word));
            self.words.extend(words.filter(|word| *word >= LOWEST));
            at += wanted as u64;
        }
    }
}

/// The file of a mapping.
fn open(pid: Pid, range: &Range<u64>) -> io::Result<File> {
    let path = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOATIME).open(path)
}

/// Where in a mapping of a file from `offset` on there is something, by address.
fn parts(file: &File, offset: u64, range: &Range<u64>) -> io::Result<Vec<Range<u64>>> {
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
        if at <= data || parts.len() == MOST_PARTS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        parts.push(range.start + (data - offset)..range.start + (at - offset));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::process;

    use memmap2::MmapMut;

    use super::*;
    use crate::process::memory::Survey;

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
            let Unseen { mut words, unread } = Unseen::of(pid, &regions, &survey.runs);
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
}
