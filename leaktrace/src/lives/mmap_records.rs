//! The kernel's records of what processes do to their address spaces, as `perf_event_open(2)` lays them out: mappings of
//! code, forks, new programs, ends.
//!
//! Pure: bytes of a ring in, [`Record`]s out. What does not fit its own size is skipped, never guessed at.

use std::borrow::Cow;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::model::{Address, Pid};
use crate::process::maps::{Device, Mapping, MappingName, Permissions};

// Record types (uapi/linux/perf_event.h, `enum perf_event_type`).
const LOST: u32 = 2;
const COMM: u32 = 3;
const EXIT: u32 = 4;
const FORK: u32 = 7;
const MMAP2: u32 = 10;

/// `PERF_RECORD_MISC_COMM_EXEC`: the name is that of a program that begins.
const COMM_EXEC: u16 = 1 << 13;
/// `PERF_RECORD_MISC_MMAP_BUILD_ID`: device and inode are replaced by a build id, which we never ask for.
const WITH_BUILD_ID: u16 = 1 << 14;

/// Type, flags and size of a record, which counts them.
const HEADER: usize = 8;
/// At the end of every record: its time (`sample_id_all` with `PERF_SAMPLE_TIME`).
const TRAILER: usize = 8;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// When, by `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// What.
    pub what: What,
}

/// What can happen. Threads that begin are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A process maps code.
    Mapped {
        /// The process.
        pid: Pid,
        /// As `/proc/PID/maps` would show it, but for the path, which is as the process itself sees it.
        mapping: Box<Mapping<'static>>,
    },
    /// A process executes another program. Its old address space is gone; no mapping of the new one is recorded yet.
    Executed {
        /// The process.
        pid: Pid,
        /// The program's short name.
        comm: String,
    },
    /// A thread takes another name.
    Renamed {
        /// The process.
        pid: Pid,
        /// The thread; the process is named after the thread whose number is the pid.
        tid: u32,
        /// The new name.
        comm: String,
    },
    /// A process begins with a copy of its parent's address space.
    Forked {
        /// The new process.
        pid: Pid,
        /// The process that made it.
        parent: Pid,
    },
    /// A thread ends; its process with it if it was the last.
    Exited {
        /// The process.
        pid: Pid,
        /// The thread.
        tid: u32,
    },
    /// So many records found no room in the ring.
    Lost(u64),
}

/// Reads the records in `bytes`, which begin with a whole one.
pub fn parse(bytes: &[u8]) -> impl Iterator<Item = Record> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = Fields(rest.get(..HEADER)?);
        let (kind, flags, size) = (header.u32(0)?, header.u16(4)?, usize::from(header.u16(6)?));
        if size < HEADER || size > rest.len() {
            return None;
        }
        let (record, tail) = rest.split_at(size);
        rest = tail;
        Some(one(kind, flags, &record[HEADER..]))
    })
    .flatten()
}

fn one(kind: u32, flags: u16, record: &[u8]) -> Option<Record> {
    let (body, trailer) = record.split_at(record.len().checked_sub(TRAILER)?);
    let body = Fields(body);
    let what = match kind {
        MMAP2 if flags & WITH_BUILD_ID == 0 => mapped(&body)?,
        COMM => named(&body, flags & COMM_EXEC != 0)?,
        FORK => forked(&body)?,
        EXIT => What::Exited { pid: Pid(body.u32(0)?), tid: body.u32(8)? },
        LOST => What::Lost(body.u64(8)?),
        _ => return None,
    };
    Some(Record { time_ns: Fields(trailer).u64(0)?, what })
}

/// `pid, tid, addr, len, pgoff, maj, min, ino, ino_generation, prot, flags, filename`.
fn mapped(body: &Fields<'_>) -> Option<What> {
    let (start, length) = (body.u64(8)?, body.u64(16)?);
    let (protection, flags) = (body.u32(56)? as i32, body.u32(60)? as i32);
    let mapping = Mapping {
        start: Address(start),
        end: Address(start.checked_add(length).filter(|end| *end > start)?),
        permissions: Permissions {
            read: protection & libc::PROT_READ != 0,
            write: protection & libc::PROT_WRITE != 0,
            execute: protection & libc::PROT_EXEC != 0,
            shared: flags & libc::MAP_SHARED != 0,
        },
        offset: body.u64(24)?,
        device: Device { major: body.u32(32)?, minor: body.u32(36)? },
        inode: body.u64(40)?,
        name: name(body.text(64)?),
    };
    Some(What::Mapped { pid: Pid(body.u32(0)?), mapping: Box::new(mapping) })
}

/// `pid, tid, comm`.
fn named(body: &Fields<'_>, exec: bool) -> Option<What> {
    let (pid, tid) = (Pid(body.u32(0)?), body.u32(4)?);
    let comm = String::from_utf8_lossy(body.text(8)?).into_owned();
    Some(if exec { What::Executed { pid, comm } } else { What::Renamed { pid, tid, comm } })
}

/// `pid, ppid, tid, ptid, time`; a thread has its maker's pid.
fn forked(body: &Fields<'_>) -> Option<What> {
    let (pid, parent) = (Pid(body.u32(0)?), Pid(body.u32(4)?));
    (pid != parent).then_some(What::Forked { pid, parent })
}

/// The kernel's name for what is mapped (`perf_event_mmap_event` of kernel/events/core.c). Unlike `/proc/PID/maps` it
/// escapes nothing.
fn name(raw: &[u8]) -> MappingName<'static> {
    const DELETED: &[u8] = b" (deleted)";
    let owned = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    match raw {
        b"//anon" => return MappingName::Anonymous,
        b"[vdso]" => return MappingName::Vdso,
        _ => {}
    }
    // "//enomem", "//toolong".
    if !raw.starts_with(b"/") || raw.starts_with(b"//") {
        return MappingName::Kernel(Cow::Owned(owned(raw)));
    }
    let (path, deleted) = match raw.strip_suffix(DELETED) {
        Some(path) => (path, true),
        None => (raw, false),
    };
    match path.strip_prefix(b"/memfd:") {
        Some(name) if deleted => MappingName::Memfd(Cow::Owned(owned(name))),
        _ => MappingName::File { path: Cow::Owned(PathBuf::from(owned(path))), deleted },
    }
}

/// Numbers at fixed places, in the machine's byte order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at + N)?.try_into().ok()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_ne_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_ne_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.array(at).map(u64::from_ne_bytes)
    }

    /// From here to the first NUL.
    fn text(&self, at: usize) -> Option<&'a [u8]> {
        let bytes = self.0.get(at..)?;
        Some(&bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())])
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// As the kernel writes it: header, fields, text padded with NULs to 8 bytes, time.
    fn record(kind: u32, flags: u16, fields: &[u8], text: &str, time: u64) -> Vec<u8> {
        let mut body = [fields, text.as_bytes()].concat();
        if !text.is_empty() {
            body.push(0);
        }
        body.resize(body.len().next_multiple_of(8), 0);
        let size = (HEADER + body.len() + TRAILER) as u16;
        [&kind.to_ne_bytes()[..], &flags.to_ne_bytes(), &size.to_ne_bytes(), &body, &time.to_ne_bytes()].concat()
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// A mapping of 0x2000 bytes at `0x7f00_0000_0000` from file offset 0x1000, of inode 77 on 8:1, `r-x`, private.
    fn mmap2(text: &str, flags: u16) -> Vec<u8> {
        let fields = words(&[
            100, 101, // pid, tid
            0, 0x7f00, 0x2000, 0, 0x1000, 0, // addr, len, pgoff
            8, 1, 77, 0, 5, 0, // maj, min, ino, generation
            5, 2, // prot, flags
        ]);
        record(MMAP2, flags, &fields, text, 42)
    }

    fn only(bytes: &[u8]) -> Record {
        let all: Vec<Record> = parse(bytes).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    }

    fn mapping(bytes: &[u8]) -> Mapping<'static> {
        match only(bytes).what {
            What::Mapped { pid: Pid(100), mapping } => *mapping,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_mapping_is_read_as_the_maps_file_shows_it() {
        let line = b"7f0000000000-7f0000002000 r-xp 00001000 08:01 77   /usr/lib/libc.so.6";
        let shown = crate::process::maps::parse(line).next().unwrap().unwrap();
        assert_eq!(mapping(&mmap2("/usr/lib/libc.so.6", 2)), shown);
        assert_eq!(only(&mmap2("/x", 2)).time_ns, 42);
    }

    #[test]
    fn names_tell_files_from_memory() {
        let file = |path, deleted| MappingName::File { path: Cow::Borrowed(Path::new(path)), deleted };
        let cases = [
            ("/tmp/a (deleted)", file("/tmp/a", true)),
            ("/tmp/two\nlines", file("/tmp/two\nlines", false)),
            ("/memfd:jit (deleted)", MappingName::Memfd(Cow::Owned("jit".into()))),
            ("//anon", MappingName::Anonymous),
            ("[vdso]", MappingName::Vdso),
            ("//toolong", MappingName::Kernel(Cow::Owned("//toolong".into()))),
            ("[stack]", MappingName::Kernel(Cow::Owned("[stack]".into()))),
        ];
        for (text, expected) in cases {
            assert_eq!(mapping(&mmap2(text, 2)).name, expected, "{text}");
        }
    }

    #[test]
    fn a_build_id_is_not_taken_for_an_inode() {
        assert_eq!(parse(&mmap2("/bin/true", WITH_BUILD_ID)).count(), 0);
    }

    #[test]
    fn lives_are_told_apart_from_threads() {
        let bytes = [
            record(FORK, 0, &words(&[200, 100, 200, 101, 9, 0]), "", 1),
            record(FORK, 0, &words(&[100, 100, 102, 101, 9, 0]), "", 2),
            record(COMM, COMM_EXEC, &words(&[200, 200]), "sleep", 3),
            record(COMM, 0, &words(&[100, 102]), "pool-1", 4),
            record(EXIT, 0, &words(&[100, 1, 102, 1, 9, 0]), "", 5),
            record(LOST, 0, &words(&[3, 0, 17, 0]), "", 6),
        ]
        .concat();
        let told: Vec<(u64, What)> = parse(&bytes).map(|record| (record.time_ns, record.what)).collect();
        let expected = [
            (1, What::Forked { pid: Pid(200), parent: Pid(100) }),
            (3, What::Executed { pid: Pid(200), comm: "sleep".to_owned() }),
            (4, What::Renamed { pid: Pid(100), tid: 102, comm: "pool-1".to_owned() }),
            (5, What::Exited { pid: Pid(100), tid: 102 }),
            (6, What::Lost(17)),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn broken_bytes_end_the_reading_and_nothing_else() {
        let whole = mmap2("/bin/true", 2);
        for cut in 0..whole.len() {
            assert_eq!(parse(&whole[..cut]).count(), 0);
        }
        let empty = record(EXIT, 0, &[], "", 1);
        assert_eq!(parse(&[empty, whole].concat()).count(), 1, "a record too short for its type is skipped");
        assert_eq!(parse(&[0; 64]).count(), 0, "a size of 0 does not loop");
    }
}
