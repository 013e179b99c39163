//! Where in the pool each object's table and each process' list of mappings is.
//!
//! In: executable mappings as they are seen in processes, and tables as they are built, in any order. Out: what to build
//! next, what to write into the pool, and the word that publishes a process' list. All processes that map an object share
//! its table, which stays in the pool after the last of them has gone. Unused tables are dropped, the least recently used
//! first, when they take more than a quarter of the pool or less than a quarter of it is free.
//!
//! Order of writing: a table's rows, then a list that refers to them, then the process' word. Chunks that no word refers to
//! any more are released afterwards, and reused only after a delay ([`ChunkPool`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::ops::Range;

use leaktrace_common::unwind::{CHUNK_WORDS, FileTable, Mapping, PADDING, ProcessWord, Table};

use super::{ChunkPool, TableError, UnwindTable};
use crate::model::Pid;

/// Most tables without users that are kept: each keeps a file open.
const MAX_IDLE: usize = 1024;

/// Writes words to the start of a chunk, and on into those that follow it: the pool's memory map.
pub trait PoolWriter {
    /// `words.len()` is a multiple of a chunk's.
    fn write(&mut self, first_chunk: u32, words: &[u64]);

    /// Waits for the walks in progress and empties the cache of rules, since generations are given out again of which it may
    /// hold rules.
    fn forget_rules(&mut self);
}

/// What an executable mapping holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code<K> {
    /// An object that may have a table.
    Object(K),
    /// Code without a file: made at run time.
    Anonymous,
    /// The kernel's `[uprobes]` page.
    ReturnTrampoline,
}

/// An executable mapping of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeMapping<K> {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Where in the file it starts; 0 for code without one.
    pub file_offset: u64,
    /// What it holds.
    pub code: Code<K>,
}

/// Why a process has no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The pool has no room for the list.
    #[error("no room for the process' list of mappings in the unwind table pool")]
    PoolFull,
    /// More mappings than a list can count.
    #[error("more than {} executable mappings", ProcessWord::MAX_MAPPINGS)]
    TooManyMappings,
    /// More processes than generations.
    #[error("more processes than lists of mappings can be told apart")]
    TooManyProcesses,
}

/// What is known of an object's table.
#[derive(Debug)]
enum State {
    /// Not built yet.
    Pending,
    /// It has none, or the pool has no room for it.
    Absent,
    /// In the pool. The table is kept without its rows, to place mappings.
    Ready { chunks: Range<u32>, placement: UnwindTable },
}

#[derive(Debug)]
struct Object {
    state: State,
    /// Mappings of it in all processes.
    users: usize,
    /// Its place in the order of those without users; `None` while it has some, or no table.
    idle: Option<u64>,
}

#[derive(Debug)]
struct Process<K> {
    mappings: Vec<CodeMapping<K>>,
    list: Range<u32>,
    /// Generation of the process' list; 0 if it has none yet.
    generation: u32,
}

/// The pool's contents. `K` identifies an object across processes (device, inode and change time of its file).
#[derive(Debug)]
pub struct Registry<K> {
    pool: ChunkPool,
    objects: HashMap<K, Object>,
    processes: HashMap<Pid, Process<K>>,
    /// The generation given out last.
    generation: u32,
    /// The highest generation.
    generations: u32,
    /// Generations in use when the cache of rules was last emptied: the cache may hold rules of them again.
    reserved: HashSet<u32>,
    refused: u64,
    /// Objects with a table and without users, the least recently used first.
    idle: BTreeMap<u64, K>,
    idle_chunks: u32,
    next_idle: u64,
    /// Objects whose tables were dropped since [`Self::take_dropped`] was last called.
    dropped: Vec<K>,
}

impl<K: Clone + Eq + Hash> Registry<K> {
    /// An empty registry over a pool of `capacity` chunks of 4 KiB.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        Self {
            pool: ChunkPool::new(capacity.min(ProcessWord::MAX_CHUNK)),
            objects: HashMap::new(),
            processes: HashMap::new(),
            generation: 0,
            generations: ProcessWord::MAX_GENERATION,
            reserved: HashSet::new(),
            refused: 0,
            idle: BTreeMap::new(),
            idle_chunks: 0,
            next_idle: 0,
            dropped: Vec::new(),
        }
    }

    /// The same with fewer generations, for tests of what happens when they have all been given out.
    #[must_use]
    pub fn with_generations(self, generations: u32) -> Self {
        Self { generations: generations.min(ProcessWord::MAX_GENERATION), ..self }
    }

    /// Notes an object that somebody is about to map. True where it is new: its table is to be built and handed to
    /// [`Self::table_built`].
    pub fn announce(&mut self, key: &K) -> bool {
        if self.objects.contains_key(key) {
            return false;
        }
        self.objects.insert(key.clone(), Object { state: State::Pending, users: 0, idle: None });
        true
    }

    /// Notes the executable mappings of a process, in place of what was noted before, and returns the objects that are
    /// new: their tables are to be built and handed to [`Self::table_built`]. Takes effect with [`Self::publish`].
    pub fn set_mappings(&mut self, pid: Pid, mut mappings: Vec<CodeMapping<K>>) -> Vec<K> {
        mappings.sort_by_key(|mapping| mapping.start);
        let mut wanted = Vec::new();
        for mapping in &mappings {
            let Code::Object(key) = &mapping.code else { continue };
            let object = self.objects.entry(key.clone()).or_insert_with(|| {
                wanted.push(key.clone());
                Object { state: State::Pending, users: 0, idle: None }
            });
            object.users += 1;
            if let Some(place) = object.idle.take() {
                self.idle.remove(&place);
                self.idle_chunks -= object.state.chunks();
            }
        }
        let process = self.processes.entry(pid).or_insert(Process { mappings: Vec::new(), list: 0..0, generation: 0 });
        let old = std::mem::replace(&mut process.mappings, mappings);
        self.drop_users(&old);
        wanted
    }

    /// Puts an object's table into the pool and returns the processes that map it: their lists are to be published
    /// again. An object that has no table, or none that fits, is noted as such.
    pub fn table_built(
        &mut self,
        key: &K,
        table: Result<UnwindTable, TableError>,
        pool: &mut impl PoolWriter,
    ) -> Vec<Pid> {
        let Some(object) = self.objects.get_mut(key) else { return Vec::new() };
        let state = match table {
            Ok(table) => {
                if let Some(chunks) = self.pool.allocate(table.chunks().len() as u32) {
                    pool.write(chunks.start, table.chunks().as_flattened());
                    State::Ready { chunks, placement: table.without_rows() }
                } else {
                    self.refused += 1;
                    State::Absent
                }
            }
            Err(_) => State::Absent,
        };
        if let State::Ready { chunks, .. } = std::mem::replace(&mut object.state, state) {
            self.pool.release(chunks);
        }
        if object.users == 0 {
            self.rest(key);
        }
        self.trim();
        let maps_it = |process: &Process<K>| process.mappings.iter().any(|m| m.code == Code::Object(key.clone()));
        self.processes.iter().filter(|(_, process)| maps_it(process)).map(|(&pid, _)| pid).collect()
    }

    /// Writes a process' list and returns the word that publishes it; the caller stores the word where the kernel program
    /// reads it. `Ok(None)` for a process without noted mappings.
    ///
    /// # Errors
    /// There is no room for the list, and the process keeps its previous one.
    pub fn publish(&mut self, pid: Pid, pool: &mut impl PoolWriter) -> Result<Option<ProcessWord>, PublishError> {
        let Some(process) = self.processes.get(&pid) else { return Ok(None) };
        let count = process.mappings.len();
        if count > ProcessWord::MAX_MAPPINGS as usize {
            return Err(PublishError::TooManyMappings);
        }
        let mut words: Vec<u64> =
            process.mappings.iter().flat_map(|mapping| resolve(&self.objects, mapping).to_words()).collect();
        words.resize(words.len().next_multiple_of(CHUNK_WORDS), PADDING);
        let list = self.pool.allocate((words.len() / CHUNK_WORDS) as u32).ok_or(PublishError::PoolFull)?;
        pool.write(list.start, &words);
        let Some(generation) = self.next_generation(pool) else {
            self.pool.release(list);
            return Err(PublishError::TooManyProcesses);
        };
        let word = ProcessWord::new(list.start, count as u32, generation);
        if let Some(process) = self.processes.get_mut(&pid) {
            process.generation = generation;
            self.pool.release(std::mem::replace(&mut process.list, list));
        }
        Ok(Some(word))
    }

    /// A generation of which the cache has no rule. After the highest, numbers start again with an empty cache. The
    /// generations in use at that moment are skipped: their processes go on caching rules, also after they get new
    /// generations.
    fn next_generation(&mut self, pool: &mut impl PoolWriter) -> Option<u32> {
        loop {
            if self.generation == self.generations {
                pool.forget_rules();
                self.generation = 0;
                self.reserved = self.processes.values().map(|process| process.generation).collect();
                // Processes without a list have generation zero.
                self.reserved.remove(&0);
                if self.reserved.len() as u32 >= self.generations {
                    return None;
                }
            }
            self.generation += 1;
            if !self.reserved.contains(&self.generation) {
                return Some(self.generation);
            }
        }
    }

    /// Forgets a process. Its word must have been cleared before.
    pub fn forget(&mut self, pid: Pid) {
        if let Some(process) = self.processes.remove(&pid) {
            self.pool.release(process.list);
            self.drop_users(&process.mappings);
        }
    }

    /// Where an object's table is, for lookups by file offset; `None` if it has no table, or if one shift does not map all
    /// file offsets to row addresses.
    #[must_use]
    pub fn placed(&self, key: &K) -> Option<FileTable> {
        match &self.objects.get(key)?.state {
            State::Ready { chunks, placement } if !chunks.is_empty() => {
                Some(FileTable { first: chunks.start, count: chunks.len() as u32, shift: placement.shift()? })
            }
            _ => None,
        }
    }

    /// Objects whose tables were dropped since the last call. The caller must forget the places of these tables at once:
    /// their chunks are used again after the next two calls of [`Self::reclaim`].
    pub fn take_dropped(&mut self) -> Vec<K> {
        std::mem::take(&mut self.dropped)
    }

    /// Frees what was released before the last call; see [`ChunkPool::reclaim`].
    pub fn reclaim(&mut self) {
        self.pool.reclaim();
        self.trim();
    }

    /// Chunks of the pool.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.pool.capacity()
    }

    /// Memory of the pool that holds tables and lists, in bytes.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        u64::from(self.pool.capacity() - self.pool.available()) * (CHUNK_WORDS * 8) as u64
    }

    /// Memory of the pool that each process' code takes, in bytes: its list, and the tables of its objects, which others may
    /// share.
    pub fn bytes_by_process(&self) -> impl Iterator<Item = (Pid, u64)> + '_ {
        self.processes.iter().map(|(&pid, process)| {
            let objects: HashSet<&K> = process
                .mappings
                .iter()
                .filter_map(|mapping| match &mapping.code {
                    Code::Object(key) => Some(key),
                    Code::Anonymous | Code::ReturnTrampoline => None,
                })
                .collect();
            let tables =
                objects.into_iter().filter_map(|key| self.objects.get(key)).map(|object| object.state.chunks());
            (pid, u64::from(process.list.len() as u32 + tables.sum::<u32>()) * (CHUNK_WORDS * 8) as u64)
        })
    }

    /// Tables that found no room in the pool.
    #[must_use]
    pub const fn refused_tables(&self) -> u64 {
        self.refused
    }

    fn drop_users(&mut self, mappings: &[CodeMapping<K>]) {
        for mapping in mappings {
            let Code::Object(key) = &mapping.code else { continue };
            let Some(object) = self.objects.get_mut(key) else { continue };
            object.users -= 1;
            if object.users == 0 {
                self.rest(key);
            }
        }
        self.trim();
    }

    /// The object has lost its last user: its table stays in the pool as idle.
    fn rest(&mut self, key: &K) {
        let Some(object) = self.objects.get_mut(key) else { return };
        match object.state {
            State::Ready { .. } => {
                object.idle = Some(self.next_idle);
                self.idle_chunks += object.state.chunks();
                self.idle.insert(self.next_idle, key.clone());
                self.next_idle += 1;
            }
            // The table is still being built, and becomes idle when it is ready.
            State::Pending => {}
            State::Absent => {
                self.objects.remove(key);
            }
        }
    }

    /// Gives up tables without users while there are too many.
    fn trim(&mut self) {
        let quarter = self.pool.capacity() / 4;
        while self.idle_chunks > quarter || self.idle.len() > MAX_IDLE || self.pool.available() < quarter {
            let Some((_, key)) = self.idle.pop_first() else { return };
            let Some(Object { state, .. }) = self.objects.remove(&key) else { continue };
            self.idle_chunks -= state.chunks();
            if let State::Ready { chunks, .. } = state {
                self.pool.release(chunks);
            }
            self.dropped.push(key);
        }
    }
}

impl State {
    /// Chunks that its table takes.
    fn chunks(&self) -> u32 {
        match self {
            Self::Ready { chunks, .. } => chunks.len() as u32,
            Self::Pending | Self::Absent => 0,
        }
    }
}

fn resolve<K: Eq + Hash>(objects: &HashMap<K, Object>, mapping: &CodeMapping<K>) -> Mapping {
    let without_base = |table| Mapping { start: mapping.start, end: mapping.end, base: mapping.start, table };
    let key = match &mapping.code {
        Code::Object(key) => key,
        Code::Anonymous => return without_base(Table::Absent),
        // Return probes return to the page's first byte, and the address looked up is the byte before a return address.
        Code::ReturnTrampoline => {
            return Mapping { start: mapping.start.saturating_sub(1), ..without_base(Table::Trampoline) };
        }
    };
    match objects.get(key).map(|object| &object.state) {
        Some(State::Ready { chunks, placement }) => {
            match placement.base_in_process(mapping.start, mapping.file_offset) {
                Some(base) if !chunks.is_empty() => Mapping {
                    start: mapping.start,
                    end: mapping.end,
                    base,
                    table: Table::Chunks { first: chunks.start, count: chunks.len() as u32 },
                },
                _ => without_base(Table::Absent),
            }
        }
        Some(State::Pending) => without_base(Table::Pending),
        Some(State::Absent) | None => without_base(Table::Absent),
    }
}
