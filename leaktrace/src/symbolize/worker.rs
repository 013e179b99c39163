//! The threads that read symbols.
//!
//! DWARF readers keep what they have parsed and cannot move between threads, so each object stays with one thread. What a
//! traced program put into its debug information may make a reader panic: that costs the object its DWARF, nothing else.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::NoteReason;
use super::object::{ObjectSymbols, SourceFrames, unnamed};
use super::vetting::MAX_DEPTH;
use crate::process::maps::{Object, ObjectId, Root};
use crate::workers;

/// Objects whose symbols one thread keeps in memory. What they gave is remembered elsewhere; read again, they cost some
/// milliseconds.
const KEPT: usize = 32;
/// Copies of files with debug information that one thread keeps, bytes, as long as it is more than one.
const COPIED: u64 = 256 << 20;
/// Bytes: sixteen KiB for each level of inlined calls that a file may nest, which are read by recursion. Untouched, it
/// costs nothing.
const STACK: usize = MAX_DEPTH as usize * 16 * 1024;

/// A thread, ended when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    jobs: Sender<Job>,
}

struct Job {
    object: Arc<Object>,
    addresses: Vec<u64>,
    reply: Sender<Answer>,
}

/// What a worker found for one object.
pub(super) struct Answer {
    pub(super) object: Arc<Object>,
    pub(super) frames: Vec<(u64, SourceFrames)>,
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

    /// Asks for the frames at these ELF virtual addresses of an object; the answer comes on `reply`, or, should the thread
    /// have died, never.
    pub(super) fn ask(&self, object: Arc<Object>, addresses: Vec<u64>, reply: Sender<Answer>) {
        // A failure means that the thread died, which the missing answer tells.
        let _ = self.jobs.send(Job { object, addresses, reply });
    }
}

struct Kept {
    symbols: ObjectSymbols,
    used: u64,
}

fn run(queue: &Receiver<Job>, own_root: &Root, directories: &[PathBuf]) {
    let mut kept: HashMap<ObjectId, Kept> = HashMap::new();
    for (now, job) in (0..).zip(queue) {
        let Job { object, addresses, reply } = job;
        let answer = answer(&mut kept, now, object, &addresses, own_root, directories);
        while kept.len() > KEPT
            || kept.len() > 1 && kept.values().map(|kept| kept.symbols.copied()).sum::<u64>() > COPIED
        {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.used).map(|(&id, _)| id);
            oldest.and_then(|oldest| kept.remove(&oldest));
        }
        // Nobody waits any more: nothing to do.
        let _ = reply.send(answer);
    }
}

fn answer(
    kept: &mut HashMap<ObjectId, Kept>,
    now: u64,
    object: Arc<Object>,
    addresses: &[u64],
    own_root: &Root,
    directories: &[PathBuf],
) -> Answer {
    let id = object.id();
    // What was read before may have been overwritten since.
    let loaded = match kept.remove(&id) {
        Some(kept) if object.open().is_ok() => Ok(kept.symbols),
        _ => guarded(|| ObjectSymbols::load(&object, own_root, directories))
            .unwrap_or_else(|panic| Err(NoteReason::Unreadable(panic))),
    };
    let mut symbols = match loaded {
        Ok(symbols) => symbols,
        Err(reason) => {
            let frames = addresses.iter().map(|&address| (address, unnamed())).collect();
            return Answer { object, frames, notes: vec![reason] };
        }
    };
    let frames = guarded(|| symbols.resolve(addresses)).unwrap_or_else(|panic| {
        symbols.distrust_dwarf(panic);
        guarded(|| symbols.resolve(addresses)).unwrap_or_default()
    });
    let frames = addresses.iter().copied().zip(frames).collect();
    let notes = symbols.take_notes();
    kept.insert(id, Kept { symbols, used: now });
    Answer { object, frames, notes }
}

/// Runs what may panic on a hostile file. Whatever it leaves half-done must be thrown away by the caller.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|panic| format!("the reader failed: {}", workers::message(panic.as_ref())))
}
