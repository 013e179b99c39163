//! The files in which a process' just-in-time compilers write what they call their code, `/tmp/perf-PID.map`.
//!
//! In: a process that is looked at, whose map is opened then, so that it is readable after the process' end. Out: the names that
//! stood in it at a moment, read when they are asked for.
//!
//! Never read by the thread that captures mappings: a map may be large, and reading it slow. That thread shares only a list of
//! named files with the thread that names addresses; only the latter takes the lock. The traced process has chosen the file system
//! of its `/tmp`, which may not answer: neither thread waits longer than `patience` lets them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::JitSymbols;
use super::files::{Budget, Permit, ProcessDir, Root, Stamp, open_named, status_of};
use crate::host::patience::{self, About};
use crate::model::Pid;

/// Read at most so much of one file, bytes: a traced process may write without end. Node's maps are some MiB.
const MAX_FILE: u64 = 256 * 1024 * 1024;
/// And so much in all, where it is written anew again and again.
const MAX_TOTAL: u64 = 4 * MAX_FILE;
/// Read so much at once, bytes.
const CHUNK: u64 = 1024 * 1024;
/// Files held of one process: whenever it replaces its map, the old file is held as well until it has been read.
const MAX_FILES: usize = 4;

/// The maps of one process. A file that is found later belongs to one clone only; all clones share the names read.
#[derive(Debug, Clone, Default)]
pub(super) struct PerfMap {
    /// The latest last.
    files: Arc<Vec<Arc<Source>>>,
    /// Their sizes, bytes, at the moment whose names are wanted; `None` for the moment of reading.
    known: Option<Arc<[u64]>>,
    names: Arc<Mutex<Names>>,
    /// Whether the user was told that its file system does not answer.
    is_told: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Source {
    /// Only named.
    file: Arc<File>,
    stamp: Stamp,
    /// Read so far, bytes; always at a line's start. Written with the lock held.
    position: AtomicU64,
    /// How much was read of it in all, bytes: it may be written anew without end. Written with the lock held.
    total: AtomicU64,
    _permit: Permit,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) symbols: JitSymbols,
    /// Whether a map was rewritten after the moment whose names were wanted last, or has more than is read: then some names may
    /// be out of date.
    is_late: bool,
}

impl Names {
    /// Whether there are such addresses.
    pub(super) fn has_unsure(&self) -> bool {
        self.is_late || self.symbols.has_reused()
    }

    /// Whether another name may have been right at the moment that was asked for.
    pub(super) fn is_unsure(&self, address: u64) -> bool {
        self.symbols.is_reused(address) || (self.is_late && self.symbols.find(address).is_some())
    }
}

impl PerfMap {
    /// Finds the process' map if there is one, or a new one that took its place.
    pub(super) fn follow(&mut self, process: &ProcessDir, budget: &Arc<Budget>) -> io::Result<()> {
        let path = map_path(process)?;
        let file = match find(Root::of(process)?, path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let status = status_of(&file)?;
        if u32::from(status.stx_mode) & libc::S_IFMT != libc::S_IFREG {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        // In /tmp anybody may write a file of that name. perf believes root's and its own user's (`dso__load_perf_map`).
        let (owner, user) = (status.stx_uid, process.user()?);
        if owner != 0 && owner != user {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it belongs to user {owner}, not to {user}"),
            ));
        }
        let stamp = Stamp::from(&status);
        if self.files.last().is_some_and(|held| held.stamp.is_same_file(&stamp)) {
            return Ok(());
        }
        let Some(permit) = budget.take() else {
            return Err(io::Error::other("no descriptor left to hold it"));
        };
        let file = Arc::new(file);
        self.add(Source { file, stamp, position: AtomicU64::new(0), total: AtomicU64::new(0), _permit: permit });
        Ok(())
    }

    fn add(&mut self, source: Source) {
        let files = Arc::make_mut(&mut self.files);
        // What the others said last is still true of what is in memory, so they are kept until that was read.
        files.retain(|held| !held.is_read());
        if files.len() >= MAX_FILES {
            files.remove(0);
        }
        files.push(Arc::new(source));
    }

    /// With the names that stand in the maps now, whenever they are read.
    #[must_use]
    pub(super) fn as_of_now(&self) -> Self {
        let sizes = self.files.iter().map(|source| source.size().unwrap_or(0));
        Self { known: Some(sizes.collect()), ..self.clone() }
    }

    /// Reads what was written since the last time, up to the moment whose names are wanted. Calls must be in the order of these
    /// moments.
    pub(super) fn refresh(&self) -> io::Result<()> {
        let mut names = self.names();
        names.is_late = false;
        for (index, source) in self.files.iter().enumerate() {
            let known = self.known.as_ref().map(|sizes| sizes.get(index).copied().unwrap_or(0));
            // Names that cannot be read may be newer than those that were.
            let is_whole = source.read(known, &mut names.symbols).inspect_err(|_| names.is_late = true)?;
            names.is_late |= !is_whole;
        }
        Ok(())
    }

    /// Logs why there are no names, or no new ones. Its functions show as anonymous memory then, which says enough, except where
    /// their names are lost to a file system that does not answer.
    pub(super) fn tell(&self, pid: Pid, error: &io::Error) {
        let is_news = error.kind() == io::ErrorKind::TimedOut && !self.is_told.swap(true, Ordering::Relaxed);
        let level = if is_news { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "perf map of process {pid}: {error}");
    }

    /// What was read. Waits for a reading that is under way.
    pub(super) fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    /// Reads what is new, up to the end or up to the size that the file had at the moment wanted. `false` where it was
    /// rewritten since, so that its content at that moment is lost, or where there is more than is read.
    fn read(&self, known: Option<u64>, symbols: &mut JitSymbols) -> io::Result<bool> {
        let size = self.size()?;
        if known.is_some_and(|known| size < known) {
            return Ok(false);
        }
        let end = known.unwrap_or(size).min(MAX_FILE);
        let mut position = self.position.load(Ordering::Relaxed);
        // Written anew from the start, as agents for Java do at each request.
        if end < position {
            position = 0;
        }
        let mut chunk = Vec::new();
        while position + (chunk.len() as u64) < end
            && self.total.load(Ordering::Relaxed) < MAX_TOTAL
            && !symbols.is_full()
        {
            let kept = chunk.len();
            let more = self.read_at(position + kept as u64, CHUNK.min(end - position - kept as u64) as usize)?;
            chunk.extend_from_slice(&more);
            // An unfinished line is left for the next time, unless it is longer than any line is.
            let whole = match chunk.iter().rposition(|&byte| byte == b'\n') {
                Some(newline) => newline + 1,
                None if chunk.len() as u64 > CHUNK => chunk.len(),
                None => 0,
            };
            symbols.extend(&chunk[..whole]);
            position += whole as u64;
            self.position.store(position, Ordering::Relaxed);
            self.total.fetch_add(whole as u64, Ordering::Relaxed);
            chunk.drain(..whole);
            if more.is_empty() {
                break;
            }
        }
        // What was not read may have given addresses other names.
        let is_whole = size <= MAX_FILE
            && !symbols.is_full()
            && (position >= end || self.total.load(Ordering::Relaxed) < MAX_TOTAL);
        Ok(is_whole)
    }

    /// Up to `length` bytes.
    fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = Arc::clone(&self.file);
        patience::answer(About::file_system(self.stamp.device, self.stamp.inode), move || {
            let mut bytes = vec![0; length];
            let read = open_named(&file)?.read_at(&mut bytes, offset)?;
            bytes.truncate(read);
            Ok(bytes)
        })
    }

    /// Bytes.
    fn size(&self) -> io::Result<u64> {
        Stamp::of(&*self.file).map(|stamp| stamp.size)
    }

    /// Whether nothing is left to read.
    fn is_read(&self) -> bool {
        let size = self.size().unwrap_or(0);
        self.position.load(Ordering::Relaxed) >= size.min(MAX_FILE)
    }
}

/// What lies at the path. A file system is asked, by a thread of its own, only where the kernel does not know: for a map that it
/// has not seen yet, and on tmpfs also where there is none.
fn find(root: Root, path: PathBuf) -> io::Result<File> {
    match root.find_known(&path) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            // Which file system it is on is not known.
            let (device, inode) = root.id;
            patience::answer(About::File(device, inode), move || root.find(&path))
        }
        found => found,
    }
}

/// The compiler names its map after the pid that it sees itself.
fn map_path(process: &ProcessDir) -> io::Result<PathBuf> {
    let mut status = Vec::new();
    process.read("status", &mut status)?;
    let pid = String::from_utf8_lossy(&status)
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:")?.split_ascii_whitespace().last()?.parse::<u32>().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no NSpid in status"))?;
    Ok(PathBuf::from(format!("/tmp/perf-{pid}.map")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The map in this file.
    fn map(path: &Path) -> PerfMap {
        let mut map = PerfMap::default();
        map.add(source(path));
        map
    }

    fn source(path: &Path) -> Source {
        let file = Arc::new(super::super::files::name(&File::open(path).expect("open")).expect("named"));
        let (stamp, permit) = (Stamp::of(&*file).expect("stamp"), Budget::new(1).take().expect("one"));
        Source { file, stamp, position: AtomicU64::new(0), total: AtomicU64::new(0), _permit: permit }
    }

    /// The names at these addresses, "-" where there is none.
    fn names<const N: usize>(map: &PerfMap, addresses: [u64; N]) -> [String; N] {
        map.refresh().expect("read");
        addresses.map(|address| map.names().symbols.find(address).map_or("-", |symbol| &symbol.name).to_owned())
    }

    #[test]
    fn what_is_appended_or_written_anew_is_read_and_an_unfinished_line_waits() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("perf-1.map");
        fs::write(&path, "1000 10 first\n1010 10 half").expect("written");
        let map = map(&path);
        let after = |text: &str| {
            fs::write(&path, text).expect("written");
            names(&map, [0x1000, 0x1010])
        };
        assert_eq!(after("1000 10 first\n1010 10 half"), ["first", "-"]);
        assert_eq!(after("1000 10 first\n1010 10 halfway\n"), ["first", "halfway"]);
        assert_eq!(after("1000 20 anew\n"), ["anew", "anew"]);
    }

    #[test]
    fn names_are_those_of_the_moment_that_is_asked_for() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("perf-1.map");
        fs::write(&path, "1000 10 first\n1010 10 second\n").expect("written");
        let map = map(&path);
        let then = map.as_of_now();
        fs::write(&path, "1000 10 first\n1010 10 second\n1000 10 later\n1020 10 third\n").expect("written");
        assert_eq!(names(&then, [0x1000, 0x1010, 0x1020]), ["first", "second", "-"]);
        assert!(!then.names().is_unsure(0x1000), "what came later does not concern it");
        assert_eq!(names(&map.as_of_now(), [0x1000, 0x1010, 0x1020]), ["later", "second", "third"]);
        assert!(map.names().is_unsure(0x1000));
    }

    #[test]
    fn names_of_a_map_that_was_written_anew_since_are_unsure() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("perf-1.map");
        fs::write(&path, "1000 10 first\n").expect("written");
        let map = map(&path);
        assert_eq!(names(&map.as_of_now(), [0x1000]), ["first"]);
        fs::write(&path, "1000 10 second\n1010 10 more\n").expect("written");
        let then = map.as_of_now();
        fs::write(&path, "1000 10 x\n").expect("written");
        assert_eq!(names(&then, [0x1000, 0x1010]), ["first", "-"]);
        assert!(then.names().is_unsure(0x1000));
        assert!(!then.names().is_unsure(0x1010), "it has no name that could be wrong");
        assert_eq!(names(&map.as_of_now(), [0x1000]), ["x"]);
    }

    #[test]
    fn whoever_looks_does_not_wait_for_who_reads() {
        let dir = tempfile::tempdir().expect("scratch");
        let paths = ["old", "new"].map(|name| dir.path().join(name));
        for path in &paths {
            fs::write(path, "1000 10 first\n").expect("written");
        }
        let mut map = map(&paths[0]);
        // Held here, where waiting for it would be for ever.
        let reader = map.clone();
        let reading = reader.names();
        map.add(source(&paths[1]));
        let then = map.as_of_now();
        drop(reading);
        assert_eq!(then.files.len(), 2, "none was read");
        assert_eq!(names(&then, [0x1000]), ["first"]);
    }

    #[test]
    fn a_map_that_is_written_anew_without_end_is_not_read_without_end() {
        let dir = tempfile::tempdir().expect("scratch");
        let path = dir.path().join("perf-1.map");
        fs::write(&path, "1000 10 first\n1010 10 another\n").expect("written");
        let source = source(&path);
        source.total.store(MAX_TOTAL - 20, Ordering::Relaxed);
        let mut map = PerfMap::default();
        map.add(source);
        assert_eq!(names(&map, [0x1000]), ["first"]);
        fs::write(&path, "5000 10 anew\n").expect("written");
        assert_eq!(names(&map, [0x5000]), ["-"]);
    }

    #[test]
    fn maps_that_were_replaced_are_read_before_they_are_forgotten() {
        let dir = tempfile::tempdir().expect("scratch");
        let paths = ["old", "new", "newest"].map(|name| dir.path().join(name));
        for (path, text) in paths.iter().zip(["1000 10 old\n1010 10 kept\n", "1000 10 new\n", "1020 10 newest\n"]) {
            fs::write(path, text).expect("written");
        }
        let mut map = map(&paths[0]);
        map.add(source(&paths[1]));
        assert_eq!(map.files.len(), 2, "the first was not read yet");
        assert_eq!(names(&map, [0x1000, 0x1010]), ["new", "kept"]);
        map.add(source(&paths[2]));
        assert_eq!(map.files.len(), 1);
        assert_eq!(names(&map, [0x1000, 0x1010, 0x1020]), ["new", "kept", "newest"]);
    }
}
