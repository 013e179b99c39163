//! The threads that read symbols.
//!
//! A DWARF reader's parsed data cannot move between threads, so each object stays on one thread. Hostile debug information
//! may make a reader panic: the object then loses its DWARF, and nothing else is affected.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::data::{DataFound, DataWanted};
use super::object::{ObjectSymbols, SourceFrames, unnamed};
use super::vetting::MAX_DEPTH;
use super::{Coverage, NoteReason};
use crate::process::maps::{Object, ObjectId, Root};
use crate::workers;

/// Objects whose symbols one thread keeps in memory. Their names are cached elsewhere; reading an object again takes some
/// milliseconds.
const KEPT: usize = 32;
/// Bytes of copied debug files that one thread keeps; a single file may exceed this.
const COPIED: u64 = 256 << 20;
/// Bytes: 16 KiB for each level of inlined calls that a file may nest, which are read by recursion. Unused stack takes no
/// memory.
const STACK: usize = MAX_DEPTH as usize * 16 * 1024;

/// A thread, ended when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: Sender<Job>,
}

/// What is asked of one object.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) object: Arc<Object>,
    /// Its debug file, where that was fetched.
    pub(super) fetched: Option<Arc<File>>,
    pub(super) addresses: Vec<u64>,
    /// What data is asked for.
    pub(super) data: DataWanted,
}

struct Job {
    question: Question,
    reply: Sender<Answer>,
}

/// What a worker found for one object.
pub(super) struct Answer {
    pub(super) object: Arc<Object>,
    pub(super) frames: Vec<(u64, SourceFrames)>,
    pub(super) data: DataFound,
    /// `None` where it could not be read.
    pub(super) coverage: Option<Coverage>,
    pub(super) notes: Vec<NoteReason>,
}

impl Worker {
    pub(super) fn start(directories: Arc<[PathBuf]>) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let own_root = Root::own()?;
        thread::Builder::new()
            .name("symbols".to_owned())
            .stack_size(STACK)
            .spawn(move || run(&queue, &own_root, &directories))?;
        Ok(Self { jobs })
    }

    /// Asks for the frames at these ELF virtual addresses of an object. The answer comes on `reply`; if the thread has died,
    /// it never comes.
    pub(super) fn ask(&self, question: Question, reply: Sender<Answer>) {
        // An error means that the thread has died; the caller learns it from the missing answer.
        let _ = self.jobs.send(Job { question, reply });
    }
}

struct Kept {
    symbols: ObjectSymbols,
    /// Whether a fetched debug file is among what was read.
    fetched: bool,
    used: u64,
}

fn run(queue: &Receiver<Job>, own_root: &Root, directories: &[PathBuf]) {
    let mut kept: HashMap<ObjectId, Kept> = HashMap::new();
    for (now, job) in (0..).zip(queue) {
        let Job { question, reply } = job;
        let answer = answer(&mut kept, now, question, own_root, directories);
        while kept.len() > KEPT
            || kept.len() > 1 && kept.values().map(|kept| kept.symbols.copied()).sum::<u64>() > COPIED
        {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.used).map(|(&id, _)| id);
            oldest.and_then(|oldest| kept.remove(&oldest));
        }
        // An error means that nobody waits any more.
        let _ = reply.send(answer);
    }
}

fn answer(
    kept: &mut HashMap<ObjectId, Kept>,
    now: u64,
    question: Question,
    own_root: &Root,
    directories: &[PathBuf],
) -> Answer {
    let Question { object, fetched, addresses, data } = question;
    let id = object.id();
    // The file may have been overwritten since its symbols were read.
    let loaded = match kept.remove(&id) {
        Some(kept) if kept.fetched == fetched.is_some() && object.open().is_ok() => Ok(kept.symbols),
        _ => guarded(|| ObjectSymbols::load(&object, own_root, directories, fetched.as_ref()))
            .unwrap_or_else(|panic| Err(NoteReason::Unreadable(panic))),
    };
    let mut symbols = match loaded {
        Ok(symbols) => symbols,
        Err(reason) => {
            let frames = addresses.iter().map(|&address| (address, unnamed())).collect();
            return Answer { object, frames, data: DataFound::default(), coverage: None, notes: vec![reason] };
        }
    };
    let frames = guarded(|| symbols.resolve(&addresses)).unwrap_or_else(|panic| {
        symbols.distrust_dwarf(panic);
        guarded(|| symbols.resolve(&addresses)).unwrap_or_default()
    });
    let frames = addresses.iter().copied().zip(frames).collect();
    let data = guarded(|| symbols.data(&object, &data)).unwrap_or_default();
    let (coverage, notes) = (Some(symbols.coverage()), symbols.take_notes());
    kept.insert(id, Kept { symbols, fetched: fetched.is_some(), used: now });
    Answer { object, frames, data, coverage, notes }
}

/// Runs code that may panic on a hostile file. After a panic the caller must discard everything that the code has modified.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| format!("the reader failed: {}", workers::message(panic.as_ref())))
}
