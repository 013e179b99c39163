//! Copies of files, so that what is read stays as it is.
//!
//! A reader that needs a whole file at once gets a copy in our own memory: [`what_is_loaded`] serves the planning of probes
//! and the building of unwind tables, [`sealed`] libraries that take paths and map the files. Both read by `pread(2)`: if a
//! file is written to or truncated meanwhile, the copy has what each read returned, and zeros beyond the new end.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use memmap2::{MmapMut, MmapOptions};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};

use super::header::{Elf, HEADER_SIZE};
use super::sections::SectionKind;
use super::segments::SegmentKind;

/// The longest file that is read at all, bytes: nearly all of a larger one would be debug information.
const MAX_LENGTH: u64 = 16 << 30;
/// The most that is read of one file, bytes, including holes: a reader of a copy reads its holes too, and those of a copy in
/// memory then take memory.
const MAX_COPIED: u64 = 1 << 30;
/// Read at once, bytes.
const PIECE: usize = 1 << 20;

/// Why a file was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A pipe, a device, a directory.
    #[error("is no regular file")]
    NotRegular,
    /// It claims more bytes than are looked at.
    #[error("is {0} bytes long, and no more than {MAX_LENGTH} are looked at")]
    TooLong(u64),
    /// What would have to be copied is more than we keep of one file.
    #[error("has more than {MAX_COPIED} bytes to be read")]
    TooLarge,
}

impl From<Errno> for CopyError {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

/// The parts of a 64-bit ELF file that are loaded into memory, and its symbols; everything else, such as debug information,
/// is zeros. The copy is as long as the file; zeros take no memory. Of any other file the copy has only the beginning.
///
/// # Errors
/// The file cannot be read, or asks for more than we read.
pub fn what_is_loaded(file: &File) -> Result<MmapMut, CopyError> {
    let length = length(file)?;
    // Anonymous memory: pages that are not written to take no memory.
    let bytes = MmapOptions::new().len(length.max(1) as usize).no_reserve_swap().map_anon()?;
    let mut copy = Loaded { file, bytes, copied: 0 };
    copy.fill(0..HEADER_SIZE)?;
    // If a number does not fit the file header, the first section has it.
    let first = match Elf::read(&*copy.bytes) {
        Ok(elf) => [elf.program_headers(), elf.first_section_header()],
        Err(_) => return Ok(copy.bytes),
    };
    for range in first {
        copy.fill(range)?;
    }
    let sections = Elf::read(&*copy.bytes).and_then(|elf| elf.section_headers()).unwrap_or_default();
    copy.fill(sections)?;
    for range in copy.wanted() {
        copy.fill(range)?;
    }
    Ok(copy.bytes)
}

/// A copy of a whole file, in a sealed file of our own that nobody can change.
///
/// # Errors
/// The file cannot be read, or is larger than what we copy.
pub fn sealed(file: &File) -> Result<File, CopyError> {
    let length = length(file)?;
    if length > MAX_COPIED {
        return Err(CopyError::TooLarge);
    }
    let copy = File::from(memfd_create(c"leaktrace-copy", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    copy.set_len(length)?;
    let mut piece = vec![0; PIECE];
    let mut position = 0;
    while let Some(data) = next_data(file, position, length)? {
        position = data.start;
        while position < data.end {
            let wanted = PIECE.min((data.end - position) as usize);
            let read = file.read_at(&mut piece[..wanted], position)?;
            if read == 0 {
                // The file was truncated meanwhile: zeros from here on.
                position = length;
                break;
            }
            copy.write_all_at(&piece[..read], position)?;
            position += read as u64;
        }
    }
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL;
    fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(copy)
}

fn length(file: &File) -> Result<u64, CopyError> {
    let status = file.metadata()?;
    if !status.is_file() {
        return Err(CopyError::NotRegular);
    }
    if status.len() > MAX_LENGTH {
        return Err(CopyError::TooLong(status.len()));
    }
    Ok(status.len())
}

/// The next range of bytes from `position` on that is not a hole. On file systems without holes the whole file is one range.
fn next_data(file: &File, position: u64, length: u64) -> io::Result<Option<Range<u64>>> {
    if position >= length {
        return Ok(None);
    }
    let seek = |from: u64, whence| lseek(file.as_fd(), from as i64, whence).map(|at| at as u64);
    let start = match seek(position, Whence::SeekData) {
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        Err(Errno::EINVAL) => position,
        Err(error) => return Err(error.into()),
    };
    let end = seek(start, Whence::SeekHole).unwrap_or(length).min(length);
    Ok((start < end).then_some(start..end))
}

fn range(offset: u64, size: u64) -> Range<u64> {
    offset..offset.saturating_add(size)
}

/// A copy in the making.
struct Loaded<'a> {
    file: &'a File,
    bytes: MmapMut,
    copied: u64,
}

impl Loaded<'_> {
    /// Copies a range, as far as the file reaches.
    fn fill(&mut self, range: Range<u64>) -> Result<(), CopyError> {
        let length = self.bytes.len() as u64;
        let mut position = range.start.min(length);
        let end = range.end.min(length);
        self.copied += end.saturating_sub(position);
        if self.copied > MAX_COPIED {
            return Err(CopyError::TooLarge);
        }
        while let Some(data) = next_data(self.file, position, end)? {
            position = data.start;
            while position < data.end {
                let read = self.file.read_at(&mut self.bytes[position as usize..data.end as usize], position)?;
                if read == 0 {
                    return Ok(());
                }
                position += read as u64;
            }
        }
        Ok(())
    }

    /// Where the file has what the program headers have loaded, and symbols, strings and notes.
    fn wanted(&self) -> Vec<Range<u64>> {
        let Ok(elf) = Elf::read(&*self.bytes) else { return Vec::new() };
        let segments = elf.segments().unwrap_or_default();
        let sections = elf.sections().unwrap_or_default();
        let kinds = [SegmentKind::Load, SegmentKind::Dynamic, SegmentKind::Notes, SegmentKind::UnwindHeader];
        let segments = segments.iter().filter(|segment| kinds.contains(&segment.kind));
        let kinds = [SectionKind::Symbols, SectionKind::DynamicSymbols, SectionKind::Strings, SectionKind::Notes];
        let sections = sections.iter().filter(|section| {
            (kinds.contains(&section.kind) || section.allocated) && section.kind != SectionKind::Absent
        });
        let segments = segments.map(|segment| range(segment.offset, segment.size));
        merged(segments.chain(sections.map(|section| range(section.offset, section.size))).collect())
    }
}

/// The same ranges without overlaps: many headers may name the same bytes.
fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    fn own_libc() -> File {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path =
            maps.lines().find_map(|line| line.find('/').map(|at| &line[at..]).filter(|it| it.contains("/libc.so")));
        File::open(path.unwrap()).unwrap()
    }

    #[test]
    fn a_sealed_copy_is_the_file_and_stays_so() {
        let file = file_of(b"something");
        let copy = sealed(&file).unwrap();
        file.set_len(0).unwrap();
        let mut bytes = [0; 9];
        copy.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"something");
        assert!(copy.set_len(4).is_err() && copy.write_all_at(b"x", 0).is_err());
    }

    #[test]
    fn what_is_loaded_of_a_library_is_what_its_headers_name() {
        let file = own_libc();
        let copy = what_is_loaded(&file).unwrap();
        let mut all = vec![0; copy.len()];
        file.read_exact_at(&mut all, 0).unwrap();
        let (copied, whole) = (Elf::read(&*copy).unwrap(), Elf::read(&*all).unwrap());
        assert_eq!(copied.sections().unwrap(), whole.sections().unwrap());
        let segments = whole.segments().unwrap();
        assert_eq!(copied.segments().unwrap(), segments);
        let loaded = segments.iter().filter(|segment| segment.kind == SegmentKind::Load);
        for segment in loaded.clone() {
            let range = segment.offset as usize..(segment.offset + segment.size) as usize;
            assert!(copy[range.clone()] == all[range], "a segment differs");
        }
        assert!(loaded.count() > 1);
    }

    #[test]
    fn a_sparse_terabyte_is_refused_and_so_are_gigabytes_that_headers_name() {
        let file = file_of(b"\x7fELF");
        file.set_len(1 << 40).unwrap();
        assert!(matches!(what_is_loaded(&file), Err(CopyError::TooLong(_))));
        assert!(matches!(sealed(&file), Err(CopyError::TooLong(_))));
        file.set_len(8 << 30).unwrap();
        assert!(matches!(sealed(&file), Err(CopyError::TooLarge)));
        assert_eq!(what_is_loaded(&file).unwrap()[..4], *b"\x7fELF");
        // A library of which one segment claims all the holes behind it.
        let mut libc = Vec::new();
        io::Read::read_to_end(&mut own_libc(), &mut libc).unwrap();
        let first = Elf::read(&*libc).unwrap().program_headers();
        let header = &mut libc[first.start as usize..first.end as usize];
        // PT_LOAD
        header[..4].copy_from_slice(&1_u32.to_le_bytes());
        header[32..40].copy_from_slice(&(8_u64 << 30).to_le_bytes());
        file.write_all_at(&libc, 0).unwrap();
        assert!(matches!(what_is_loaded(&file), Err(CopyError::TooLarge)));
    }

    #[test]
    fn pipes_devices_and_directories_are_refused() {
        for path in ["/dev/zero", "/dev/null", "/tmp"] {
            let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).unwrap();
            assert!(matches!(sealed(&file), Err(CopyError::NotRegular)), "{path}");
            assert!(matches!(what_is_loaded(&file), Err(CopyError::NotRegular)), "{path}");
        }
    }

    #[test]
    fn ranges_that_overlap_are_read_once() {
        assert_eq!(merged(vec![5..9, 0..3, 2..4, 9..10]), [0..4, 5..10]);
    }

    #[test]
    fn a_file_that_is_shortened_while_it_is_read_ends_in_zeros() {
        let mut libc = Vec::new();
        io::Read::read_to_end(&mut own_libc(), &mut libc).unwrap();
        let file = file_of(&libc);
        std::thread::scope(|scope| {
            let (done, watch) = std::sync::mpsc::channel::<()>();
            let other = &file;
            scope.spawn(move || {
                while watch.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    other.set_len(4096).unwrap();
                    other.write_all_at(&libc, 0).unwrap();
                }
            });
            for _ in 0..50 {
                assert!(what_is_loaded(&file).unwrap().starts_with(b"\x7fELF"));
                assert!(sealed(&file).is_ok());
            }
            done.send(()).unwrap();
        });
    }
}
