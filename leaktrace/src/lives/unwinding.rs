//! Feeds the kernel-side unwinder: tables of the objects that traced processes map, built in the background, and each
//! process' list of mappings.
//!
//! In: address spaces. Out: words in the unwind pool, the word of each process that points to its list, and for each file
//! where its table is, by which the programs find the way while a process has no list yet. Attaching never waits for a
//! table: until it is there the programs follow frame pointers, and count it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leaktrace_common::abi::{self, Process};
use leaktrace_common::unwind::{CHUNK_WORDS, FileKey, ProcessWord};

use crate::elf;
use crate::host::patience::{self, About};
use crate::kernel::unwind_maps::UnwindMaps;
use crate::kernel::{self, Kernel};
use crate::model::Pid;
use crate::process::maps::{AddressSpace, Layout, Object, ObjectId};
use crate::unwind_tables::{Code, CodeMapping, PoolWriter, Registry, TableError, UnwindTable};
use crate::workers;

/// Threads that build tables.
const BUILDERS: usize = 2;
/// The kernel's name of the page that return probes return to.
const TRAMPOLINE: &str = "[uprobes]";

/// Processes whose memory is logged.
const PROCESSES_TOLD: usize = 10;

/// A table that was built.
pub struct Built {
    object: Arc<Object>,
    table: Result<UnwindTable, TableError>,
    took: Duration,
}

/// The pool's contents and those who build them.
pub struct Unwinding {
    registry: Registry<ObjectId>,
    /// Lists by pid, for processes that have no slot yet, and tables by file.
    maps: UnwindMaps,
    /// The files whose tables are in `maps`. The objects are held so that their inodes are not given to other files.
    filed: HashMap<ObjectId, (FileKey, Arc<Object>)>,
    words: HashMap<Pid, ProcessWord>,
    /// The layout of each process' mappings that were followed last.
    layouts: HashMap<Pid, Layout>,
    slots: HashMap<Pid, u32>,
    jobs: Sender<Arc<Object>>,
    results: async_channel::Receiver<Built>,
    pending: usize,
}

impl Unwinding {
    /// An empty pool.
    pub fn new(kernel: &mut Kernel) -> Result<Self> {
        let (sender, results) = async_channel::unbounded();
        let failed = |object: &Arc<Object>, panic| Built {
            object: Arc::clone(object),
            table: Err(TableError::NotElf(format!("reading it failed ({panic})"))),
            took: Duration::ZERO,
        };
        let jobs = workers::start("unwind-tables", BUILDERS, &sender, build, failed)
            .context("cannot start the threads that build unwind tables")?;
        Ok(Self {
            registry: Registry::new(kernel.unwind_pool.elements()).with_generations(generations()),
            maps: UnwindMaps::take(kernel)?,
            filed: HashMap::new(),
            words: HashMap::new(),
            layouts: HashMap::new(),
            slots: HashMap::new(),
            jobs,
            results,
            pending: 0,
        })
    }

    /// Takes note of a process' mappings, in place of those known before.
    pub fn follow(&mut self, kernel: &Kernel, pid: Pid, space: &AddressSpace) {
        let mut objects = HashMap::new();
        let mappings = space
            .mappings()
            .filter(|location| location.mapped)
            .map(|location| {
                let code = match location.object {
                    Some(object) => {
                        objects.insert(object.id(), Arc::clone(object));
                        Code::Object(object.id())
                    }
                    None if location.module.as_ref() == Path::new(TRAMPOLINE) => Code::ReturnTrampoline,
                    None => Code::Anonymous,
                };
                CodeMapping { start: location.start.0, end: location.end.0, file_offset: location.offset, code }
            })
            .collect();
        for wanted in self.registry.set_mappings(pid, mappings) {
            if let Some(object) = objects.remove(&wanted) {
                self.build(object);
            }
        }
        self.forget_dropped();
        self.layouts.insert(pid, space.layout());
        self.publish(kernel, pid);
    }

    /// Builds the table of an object that was just mapped. The process may end before it is followed; the next one finds the
    /// table.
    pub fn announce(&mut self, object: &Arc<Object>) {
        if self.registry.announce(&object.id()) {
            self.build(Arc::clone(object));
        }
    }

    fn build(&mut self, object: Arc<Object>) {
        // The threads live as long as we do.
        self.pending += usize::from(self.jobs.send(object).is_ok());
    }

    /// The process has been given a slot.
    pub fn began(&mut self, kernel: &Kernel, pid: Pid, slot: u32) {
        self.slots.insert(pid, slot);
        if let Some(word) = self.words.get(&pid) {
            point(kernel, slot, *word, self.layout(pid));
        }
    }

    /// The life of a process is over: its mappings with it.
    pub fn ended(&mut self, kernel: &Kernel, pid: Pid) {
        self.maps.remove_list(pid);
        self.words.remove(&pid);
        self.layouts.remove(&pid);
        if let Some(slot) = self.slots.remove(&pid) {
            point(kernel, slot, ProcessWord::default(), 0);
        }
        self.registry.forget(pid);
        self.forget_dropped();
    }

    /// Waits for the next table. May be cancelled without losing one.
    pub async fn built(&mut self) -> Built {
        match self.results.recv().await {
            Ok(built) => built,
            Err(_) => std::future::pending().await,
        }
    }

    /// The next table, if there is one already.
    pub fn built_by_now(&self) -> Option<Built> {
        self.results.try_recv().ok()
    }

    /// Whether tables that were asked for are still to come.
    pub fn is_building(&self) -> bool {
        self.pending > 0
    }

    /// Puts a table to use.
    pub fn take(&mut self, kernel: &Kernel, built: Built) {
        let Built { object, table, took } = built;
        let path = object.path();
        self.pending = self.pending.saturating_sub(1);
        let (size, rows) = table.as_ref().map_or((0, 0), |table| (table.size(), table.rows().len()));
        let failed = table.as_ref().err().map(ToString::to_string);
        let users = self.registry.table_built(&object.id(), table, &mut Pool(kernel));
        self.forget_dropped();
        self.file(&object);
        for pid in users {
            self.publish(kernel, pid);
        }
        // Logged only once the table is in use.
        match failed {
            None => {
                log::debug!("unwind table of {}: {rows} rows, {size} bytes, {} ms", path.display(), took.as_millis());
            }
            Some(error) => log::info!("{} is unwound by frame pointers: {error}", path.display()),
        }
    }

    /// Lets the programs find an object's table by its file.
    fn file(&mut self, object: &Arc<Object>) {
        let key = object.kernel_identity().and_then(|(device, inode, modified)| FileKey::new(device, inode, modified));
        let (Some(key), Some(table)) = (key, self.registry.placed(&object.id())) else { return };
        match self.maps.set_file(key, table) {
            Ok(()) => {
                self.filed.insert(object.id(), (key, Arc::clone(object)));
            }
            Err(error) => log::debug!("the table of {} is found by lists alone: {error}", object.path().display()),
        }
    }

    /// Removes dropped tables from the map of files, before their chunks are used again.
    fn forget_dropped(&mut self) {
        for id in self.registry.take_dropped() {
            let Some((key, _)) = self.filed.remove(&id) else { continue };
            // A file that was written over within a second has two objects.
            let other = self.filed.iter().find(|(_, (other, _))| *other == key).map(|(other, _)| *other);
            match other.and_then(|other| self.registry.placed(&other)) {
                Some(table) => {
                    let _ = self.maps.set_file(key, table);
                }
                None => self.maps.remove_file(key),
            }
        }
    }

    /// Frees what has not been used for two calls. To be called once a second or so.
    pub fn reclaim(&mut self) {
        self.registry.reclaim();
        self.forget_dropped();
    }

    /// Logs how much of the pool is in use, in all and by the processes that take most, and what found no room in it.
    pub fn tell(&self) {
        let mut processes: Vec<(Pid, u64)> = self.registry.bytes_by_process().collect();
        processes.sort_by_key(|&(pid, bytes)| (std::cmp::Reverse(bytes), pid.0));
        for (pid, bytes) in processes.iter().take(PROCESSES_TOLD) {
            log::info!("unwind tables of process {pid}: {} KiB, shared with others that map the same", bytes / 1024);
        }
        log::info!(
            "unwind tables in all: {} KiB of a pool of {} KiB",
            self.registry.used_bytes() / 1024,
            u64::from(self.registry.capacity()) * (CHUNK_WORDS * 8) as u64 / 1024
        );
        if self.registry.refused_tables() > 0 {
            log::warn!(
                "{} unwind tables found no room: their code is unwound by frame pointers",
                self.registry.refused_tables()
            );
        }
    }

    fn layout(&self, pid: Pid) -> Layout {
        self.layouts.get(&pid).copied().unwrap_or(0)
    }

    fn publish(&mut self, kernel: &Kernel, pid: Pid) {
        match self.registry.publish(pid, &mut Pool(kernel)) {
            Ok(Some(word)) => {
                self.words.insert(pid, word);
                if let Err(error) = self.maps.set_list(pid, word) {
                    log::debug!("no list of mappings for process {pid}: {error}");
                }
                if let Some(slot) = self.slots.get(&pid) {
                    point(kernel, *slot, word, self.layout(pid));
                }
            }
            Ok(None) => {}
            Err(error) => {
                log::warn!("process {pid} is unwound by frame pointers: {error}");
            }
        }
    }
}

/// How many generations of lists there are; `LEAKTRACE_UNWIND_GENERATIONS` says a smaller number, so that tests see their end.
fn generations() -> u32 {
    let fewer = std::env::var("LEAKTRACE_UNWIND_GENERATIONS").ok().and_then(|number| number.parse().ok());
    fewer.unwrap_or(ProcessWord::MAX_GENERATION)
}

/// Stores the word of the life in a slot, with the layout that it is for.
fn point(kernel: &Kernel, slot: u32, word: ProcessWord, layout: Layout) {
    if let Some(process) = kernel.processes.pointer(slot) {
        let process: *mut Process = process;
        // SAFETY: in bounds; aligned words, which the programs read and write whole. The order does not matter: each is used
        // only with the other.
        unsafe {
            (&raw mut (*process).list_for).write_volatile(abi::list_for(layout, word.generation()));
            (&raw mut (*process).unwind_list).write_volatile(word.to_bits());
        }
    }
}

fn build(object: &Arc<Object>) -> Built {
    let began = Instant::now();
    #[cfg(debug_assertions)]
    dawdle();
    let question = {
        let object = Arc::clone(object);
        move || read(&object)
    };
    let (device, inode) = object.inode().unwrap_or_default();
    let table = patience::within(patience::read_within(), About::File(device, inode), question).unwrap_or_else(|| {
        log::warn!("{} is unwound by frame pointers: its file system does not answer", object.path().display());
        Err(TableError::NotElf("its file system does not answer".to_owned()))
    });
    Built { object: Arc::clone(object), table, took: began.elapsed() }
}

fn read(object: &Object) -> Result<UnwindTable, TableError> {
    let file = object.open().map_err(|error| TableError::NotElf(error.to_string()))?;
    let bytes = elf::what_is_loaded(&file).map_err(|error| TableError::NotElf(error.to_string()))?;
    UnwindTable::build(&bytes)
}

/// Takes so many seconds longer as `LEAKTRACE_TABLES_DELAY` says: so that tests see what comes of stacks without tables.
#[cfg(debug_assertions)]
fn dawdle() {
    if let Some(seconds) = std::env::var("LEAKTRACE_TABLES_DELAY").ok().and_then(|seconds| seconds.parse().ok()) {
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Writes into the map.
struct Pool<'a>(&'a Kernel);

impl PoolWriter for Pool<'_> {
    fn write(&mut self, first_chunk: u32, words: &[u64]) {
        for (index, chunk) in (first_chunk..).zip(words.chunks_exact(CHUNK_WORDS)) {
            let Some(to) = self.0.unwind_pool.pointer(index) else { return };
            // SAFETY: in bounds, a whole chunk; the programs do not read it before a word points there.
            unsafe { std::ptr::copy_nonoverlapping(chunk.as_ptr(), to.cast::<u64>(), CHUNK_WORDS) };
        }
    }

    fn forget_rules(&mut self) {
        kernel::wait_for_programs();
        for slot in 0..self.0.rule_cache.elements() {
            let Some(word) = self.0.rule_cache.pointer(slot) else { return };
            // SAFETY: in bounds; one aligned word, that the programs read and write whole.
            unsafe { word.write_volatile(0) };
        }
        log::debug!("all generations of mapping lists were given out; the cache of unwind rules is empty again");
    }
}
