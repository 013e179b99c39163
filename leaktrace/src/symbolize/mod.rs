//! Names for addresses: function, source line and inlined calls.
//!
//! In: an [`AddressSpace`], captured while the process lived, and addresses in it. Out: [`Frame`]s. The names of an object's
//! code are kept for every process and every later report.
//!
//! `elf` reads sections, `vetting` rejects files that would crash a reader, `symtab` and `plt` find symbols, `debugfile`
//! finds separate debug files on this machine, `debuginfod` fetches those of servers, `dwarf` asks blazesym, `data` is what is known of variables, `object`
//! combines all of these for one object, `worker` runs that on threads.
//!
//! Invariants: a report never fails because of a symbol; no name is used beyond its symbol's size; no file is read by a path
//! that might have come to name another file.

mod data;
mod debugfile;
pub mod debuginfod;
mod demangle;
mod dwarf;
mod elf;
mod object;
mod plt;
mod symtab;
mod vetting;
mod worker;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::time::Duration;

use self::data::DataFound;
pub use self::data::{Data, DataWanted, Variable};
use self::object::SourceFrames;
pub use self::object::names_by_tables;
use self::worker::{Answer, Question, Worker};
use crate::model::{Address, Frame};
use crate::process::maps::{AddressSpace, Location, Object, ObjectId};

/// Where distributions install debug information (gdb's `debug-file-directory`).
const DEBUG_DIRECTORY: &str = "/usr/lib/debug";
/// More threads than this do not make a report faster: a few large objects take most of the time.
const MAX_WORKERS: usize = 4;

/// How long to wait for the next object's answer. The largest debug information known takes some seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// An address of code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodeAddress {
    /// As captured.
    pub address: Address,
    /// Whether this is the instruction itself, as in a frame that a signal interrupted. Otherwise it is a return address, and
    /// the call lies before it: where the call is the last instruction of its function, the address itself is the next
    /// function's.
    pub exact: bool,
}

impl CodeAddress {
    /// A return address.
    #[must_use]
    pub fn returning(address: Address) -> Self {
        Self { address, exact: false }
    }

    /// The address of an instruction that was about to run.
    #[must_use]
    pub fn exact(address: Address) -> Self {
        Self { address, exact: true }
    }

    /// An address inside the instruction: for a return address the last byte of the call.
    #[must_use]
    pub fn lookup(self) -> Address {
        if self.exact { self.address } else { Address(self.address.0.wrapping_sub(1)) }
    }
}

/// What can name an object's code, beside the functions that it exports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Debug information, which has lines and inlined calls, readable or not.
    pub debug_info: bool,
    /// A symbol table of all its functions, which stripping removes.
    pub symbols: bool,
}

/// Why some frames of an object lack names or lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Note {
    /// The object, by the path under which it was first seen.
    pub module: PathBuf,
    /// What is missing.
    pub reason: NoteReason,
}

/// What an object lacks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoteReason {
    /// It could not be read, or is no longer the file that was mapped.
    Unreadable(String),
    /// It is mapped as code but is not a 64-bit little-endian ELF file.
    NotElf,
    /// It has no symbol table at all.
    NoSymbols,
    /// This file is where its debug information should be, but belongs to another build.
    ForeignDebugFile(PathBuf),
    /// It has debug information that cannot be read.
    DebugInformation(String),
    /// Reading it was given up.
    TookTooLong,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.module.display())?;
        match &self.reason {
            NoteReason::Unreadable(why) => write!(f, "cannot be read: {why}"),
            NoteReason::NotElf => write!(f, "is no ELF file"),
            NoteReason::NoSymbols => write!(f, "has no symbols; install its debug symbols to see names"),
            NoteReason::ForeignDebugFile(path) => {
                write!(f, "{} belongs to another build; install the matching debug symbols", path.display())
            }
            NoteReason::TookTooLong => write!(f, "took too long to read; its code is shown by offset"),
            NoteReason::DebugInformation(why) => write!(f, "debug information cannot be read: {why}"),
        }
    }
}

/// Names addresses, and caches the names.
///
/// A call blocks for up to some seconds when large objects are seen first: in asynchronous code, call it where blocking is
/// allowed.
#[derive(Debug)]
pub struct Symbolizer {
    workers: Vec<Worker>,
    directories: Arc<[PathBuf]>,
    patience: Duration,
    objects: HashMap<ObjectId, ObjectNames>,
    notes: BTreeSet<Note>,
    /// The worker that the next new object goes to.
    next: usize,
}

/// What is known of one object's code.
#[derive(Debug)]
struct ObjectNames {
    object: Weak<Object>,
    worker: usize,
    /// Whether reading it was given up.
    hopeless: bool,
    coverage: Option<Coverage>,
    /// Its debug file, where that was fetched.
    fetched: Option<Arc<File>>,
    frames: HashMap<u64, SourceFrames>,
    /// What the last question about its data has found.
    data: DataFound,
}

/// What a worker was asked.
struct Asked {
    worker: usize,
    question: Question,
}

impl Symbolizer {
    /// Looks for separate debug information in `/usr/lib/debug`.
    ///
    /// Errors: threads cannot be started.
    pub fn new() -> io::Result<Self> {
        Self::with_debug_directories(vec![PathBuf::from(DEBUG_DIRECTORY)])
    }

    /// Looks for separate debug information in these directories, each inside the root of the process that mapped the
    /// object and then inside our own.
    ///
    /// Errors: threads cannot be started.
    pub fn with_debug_directories(directories: Vec<PathBuf>) -> io::Result<Self> {
        let directories: Arc<[PathBuf]> = directories.into();
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
        let workers = (0..count).map(|_| Worker::start(Arc::clone(&directories))).collect::<io::Result<_>>()?;
        Ok(Self { workers, directories, patience: PATIENCE, objects: HashMap::new(), notes: BTreeSet::new(), next: 0 })
    }

    /// Gives up on an object after waiting for so long, instead of a minute.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The frames at each address: the functions inlined there, innermost first, then the function that holds the code.
    /// Never empty: where nothing is known the frame has only its address.
    pub fn resolve(&mut self, space: &AddressSpace, addresses: &[CodeAddress]) -> Vec<Vec<Frame>> {
        self.resolve_batch(&[(space, addresses)]).pop().unwrap_or_default()
    }

    /// The same for many processes at once: reads each object once, on as many threads as there are.
    pub fn resolve_batch(&mut self, batch: &[(&AddressSpace, &[CodeAddress])]) -> Vec<Vec<Vec<Frame>>> {
        self.read(batch);
        let frames = batch
            .iter()
            .map(|(space, addresses)| addresses.iter().map(|&address| self.frames(space, address)).collect())
            .collect();
        self.forget_gone();
        frames
    }

    /// What kept frames from being named, in all calls so far; for `-v`.
    pub fn notes(&self) -> impl Iterator<Item = &Note> {
        self.notes.iter()
    }

    /// What there is to name an object's code by; `None` where it was not read.
    #[must_use]
    pub fn coverage(&self, object: &Object) -> Option<Coverage> {
        self.objects.get(&object.id())?.coverage
    }

    /// From now on, names an object's code also by this debug file, which must be of the object's build.
    pub fn give(&mut self, object: &Object, file: Arc<File>) {
        if let Some(known) = self.objects.get_mut(&object.id()) {
            known.fetched = Some(file);
            known.frames.clear();
        }
    }

    /// Has the workers read whatever is not known yet.
    fn read(&mut self, batch: &[(&AddressSpace, &[CodeAddress])]) {
        let mut wanted: HashMap<ObjectId, (Arc<Object>, HashSet<u64>)> = HashMap::new();
        for (space, addresses) in batch {
            let mut jitted = false;
            for address in *addresses {
                let location = space.locate(address.lookup());
                let Some((object, virtual_address)) = location.as_ref().and_then(in_object) else {
                    jitted = true;
                    continue;
                };
                let known = self.objects.get(&object.id());
                if known.is_none_or(|known| !known.frames.contains_key(&virtual_address)) {
                    wanted
                        .entry(object.id())
                        .or_insert_with(|| (Arc::clone(object), HashSet::new()))
                        .1
                        .insert(virtual_address);
                }
            }
            if jitted {
                space.refresh_jit();
            }
        }

        // Largest first, so that no thread is left with a large one at the end.
        let mut wanted: Vec<_> = wanted.into_values().collect();
        wanted.sort_unstable_by_key(|(object, addresses)| (std::cmp::Reverse(addresses.len()), object.id()));
        let mut asked = Vec::new();
        for (object, addresses) in wanted {
            // In order: neighbours share compilation units.
            let mut addresses: Vec<_> = addresses.into_iter().collect();
            addresses.sort_unstable();
            asked.extend(self.question(object, addresses, DataWanted::default()));
        }
        self.ask(asked);
    }

    /// What is to be asked of an object, and whom; `None` where it is hopeless.
    fn question(&mut self, object: Arc<Object>, addresses: Vec<u64>, data: DataWanted) -> Option<Asked> {
        let known = self.objects.entry(object.id()).or_insert_with(|| {
            self.next = (self.next + 1) % self.workers.len();
            // Of a file system that does not answer, the first object is waited for, and not each.
            let silent = object.await_file_system().err();
            let hopeless = silent.is_some();
            if let Some(error) = silent {
                let reason = NoteReason::Unreadable(error.to_string());
                self.notes.insert(Note { module: object.path().to_path_buf(), reason });
            }
            ObjectNames {
                object: Arc::downgrade(&object),
                worker: self.next,
                hopeless,
                coverage: None,
                fetched: None,
                frames: HashMap::new(),
                data: DataFound::default(),
            }
        });
        let fetched = known.fetched.clone();
        let question = Question { object, fetched, addresses, data };
        (!known.hopeless).then_some(Asked { worker: known.worker, question })
    }

    /// Asks the workers and waits for what they answer.
    fn ask(&mut self, mut asked: Vec<Asked>) {
        let (reply, answers) = channel();
        for asked in &asked {
            self.workers[asked.worker].ask(asked.question.clone(), reply.clone());
        }
        while !asked.is_empty() {
            if let Ok(answer) = answers.recv_timeout(self.patience) {
                asked.retain(|asked| asked.question.object.id() != answer.object.id());
                self.learn(answer);
                continue;
            }
            // Each thread is at the first of its objects without an answer. That object takes forever to read, or killed its
            // reader: abandon the thread, and have a new one read the rest.
            let mut stuck = HashSet::new();
            asked.retain(|asked| {
                let first = stuck.insert(asked.worker);
                if first {
                    self.give_up(asked);
                }
                !first
            });
            for asked in &asked {
                self.workers[asked.worker].ask(asked.question.clone(), reply.clone());
            }
        }
    }

    fn learn(&mut self, answer: Answer) {
        let module = answer.object.path();
        self.notes.extend(answer.notes.into_iter().map(|reason| Note { module: module.to_path_buf(), reason }));
        if let Some(known) = self.objects.get_mut(&answer.object.id()) {
            known.coverage = answer.coverage;
            known.frames.extend(answer.frames);
            known.data = answer.data;
        }
    }

    fn give_up(&mut self, asked: &Asked) {
        let object = &asked.question.object;
        log::debug!("given up: {}", object.path().display());
        self.notes.insert(Note { module: object.path().to_path_buf(), reason: NoteReason::TookTooLong });
        if let Some(known) = self.objects.get_mut(&object.id()) {
            known.hopeless = true;
        }
        if let Ok(worker) = Worker::start(Arc::clone(&self.directories)) {
            self.workers[asked.worker] = worker;
        }
    }

    fn frames(&self, space: &AddressSpace, address: CodeAddress) -> Vec<Frame> {
        let bare = Frame::unresolved(address.address);
        let jitted = || space.jit_symbol(address.lookup()).map(|name| demangle::demangle(name.as_bytes()));
        let Some(location) = space.locate(address.lookup()) else {
            return vec![Frame { function: jitted(), ..bare }];
        };
        let bare = Frame { module: Some(location.module.to_path_buf()), ..bare };
        let back = address.address.0.wrapping_sub(address.lookup().0);
        let Some((object, virtual_address)) = in_object(&location) else {
            // For a file that is not ELF, the file offset is the most useful number.
            let module_offset = location.object.map(|_| location.offset.wrapping_add(back));
            return vec![Frame { function: jitted(), module_offset, ..bare }];
        };
        let bare = Frame { module_offset: Some(virtual_address.wrapping_add(back)), ..bare };
        match self.objects.get(&object.id()).and_then(|known| known.frames.get(&virtual_address)) {
            None => vec![bare],
            Some(frames) => frames
                .iter()
                .map(|frame| Frame {
                    function: frame.function.clone(),
                    symbol: frame.symbol.clone(),
                    file: frame.place.file.clone(),
                    line: frame.place.line,
                    inlined: frame.inlined,
                    ..bare.clone()
                })
                .collect(),
        }
    }

    /// Drops the cached names of objects to which no process and no store refers any more.
    fn forget_gone(&mut self) {
        self.objects.retain(|_, known| known.object.strong_count() > 0);
    }
}

/// The object whose code stands at an address.
#[must_use]
pub fn object_at(space: &AddressSpace, address: CodeAddress) -> Option<&Arc<Object>> {
    in_object(&space.locate(address.lookup())?).map(|(object, _)| object)
}

/// The ELF object at a location and the address in the object's own numbering; `None` where code has no ELF file.
fn in_object<'a>(location: &Location<'a>) -> Option<(&'a Arc<Object>, u64)> {
    let object = location.object?;
    Some((object, object.virtual_address(location.offset)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pid;

    #[test]
    fn an_unknown_address_is_a_frame_of_its_own() {
        let mut symbolizer = Symbolizer::new().expect("threads");
        let space = AddressSpace::empty(Pid(1));
        for address in [0, 1, u64::MAX] {
            let frames = symbolizer.resolve(&space, &[CodeAddress::returning(Address(address))]);
            assert_eq!(frames, [[Frame::unresolved(Address(address))]]);
        }
    }

    #[test]
    fn names_can_be_made_on_any_thread() {
        fn any_thread<T: Send>(value: T) -> T {
            value
        }
        let mut symbolizer = any_thread(Symbolizer::new().expect("threads"));
        let space = any_thread(AddressSpace::empty(Pid(1)));
        let resolved = std::thread::spawn(move || symbolizer.resolve(&space, &[])).join().expect("no panic");
        assert!(resolved.is_empty());
    }
}
