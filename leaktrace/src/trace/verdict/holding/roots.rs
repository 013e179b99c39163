//! The words outside of blocks from which blocks are reached, by name.
//!
//! In: the roots of a search, where files are loaded, names of their variables, frames on stacks. Out: [`Sources`] for the search
//! for holders, and the name of each variable and word. A variable is what a programmer takes for one thing: a global variable, a
//! thread's stack, a mapping. Where it has few words that hold blocks, each is told apart by its offset.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::Holding;
use super::given::What;
use super::own_frame::place;
use crate::analysis::reachability::{Graph, Place, Source, Sources};
use crate::lives::frames::{Contents, FrameAt};
use crate::model::{Address, Frame, RootKind};
use crate::process::maps::{AddressSpace, Loaded, Object, ObjectId, Place as InFile};
use crate::process::memory::{Region, RegionKind};
use crate::symbolize::{CodeAddress, Data, DataWanted, Symbolizer};

/// Words of a variable that are told apart at most.
const FEW: usize = 16;
/// What holds a block that the program wants no leak reported of.
const IGNORED: &str = "the program's word (__lsan_ignore_object, __lsan_disable)";
/// Words of a file without a variable's name that are told apart at most.
const UNNAMED: usize = 1024;
/// What the C libraries keep of a thread beside its variables, bytes: as glibc 2.36 does (`struct pthread`), musl keeps less.
const CONTROL: u64 = 2304;

/// Something outside of blocks that may hold some. What comes first is preferred as a reason why a block is there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Thing {
    /// A variable of a file, by the file and its first address.
    Variable(ObjectId, u64),
    /// A word of a file's data that no variable has.
    Unnamed(ObjectId, u64),
    /// Many of these.
    Rest(ObjectId),
    Kernel(String),
    /// A thread's own variables, by the thread's place.
    Tls(usize),
    /// Those of threads that have ended.
    EndedTls,
    /// The program's word, by LeakSanitizer's functions.
    Ignored,
    /// A mapping, by its place.
    Mapping(usize),
    /// A frame on a thread's stack, by its place on the stack.
    Frame(usize, usize),
    /// A thread's stack elsewhere.
    Stack(usize),
    Registers(usize),
    Unknown,
}

impl Thing {
    fn kind(&self) -> RootKind {
        match self {
            Self::Variable(..) | Self::Unnamed(..) | Self::Rest(_) | Self::Mapping(_) => RootKind::Data,
            Self::Kernel(_) => RootKind::Kernel,
            Self::Ignored => RootKind::Ignored,
            Self::Tls(_) | Self::EndedTls => RootKind::Tls,
            Self::Frame(..) | Self::Stack(_) => RootKind::Stack,
            Self::Registers(_) => RootKind::Registers,
            Self::Unknown => RootKind::None,
        }
    }

    fn is_lasting(&self) -> bool {
        matches!(self.kind(), RootKind::Data | RootKind::Kernel | RootKind::Tls | RootKind::Ignored)
    }
}

/// A name, and what kind of thing has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The kind.
    pub kind: RootKind,
    /// What it is called.
    pub text: String,
}

/// The roots of a process, with names.
pub struct Named {
    /// For the search for holders.
    pub sources: Sources,
    /// By the number of a word.
    pub words: Vec<Name>,
    /// By the number of a variable.
    pub variables: Vec<Name>,
}

/// Where things are in a process.
pub struct Surroundings<'a> {
    /// What was kept of the leak check.
    pub holding: &'a Holding,
    /// Where code lies.
    pub space: &'a AddressSpace,
    /// Where files are loaded.
    pub loaded: &'a Loaded,
}

impl Surroundings<'_> {
    /// Finds and names all roots.
    pub fn name(&self, graph: Graph<'_>, symbolizer: &mut Symbolizer) -> Named {
        let frames = self.frames(graph);
        let mut wanted: HashMap<ObjectId, (Arc<Object>, DataWanted)> = HashMap::new();
        for root in graph.roots() {
            let Place::Memory(address) = root.at else { continue };
            if let Some(found) = self.loaded.at(address) {
                let of = wanted
                    .entry(found.object.id())
                    .or_insert_with(|| (Arc::clone(found.object), DataWanted::default()));
                of.1.variables.push(found.address);
            }
        }
        let objects = wanted.iter().map(|(id, (object, _))| (*id, Arc::clone(object))).collect();
        let data = symbolizer.data(wanted.into_values());
        let functions = self.functions(&frames, symbolizer);
        let spans = self.spans(&frames);
        let (unnamed, things) = (HashMap::new(), HashMap::new());
        let mut finder = Finder { at: self, spans, frames, functions, objects, data, unnamed, things };
        let mut found = Vec::new();
        for root in graph.roots() {
            let (thing, detail, name) = finder.thing(root.at);
            let things = finder.things.len();
            let known =
                finder.things.entry(thing).or_insert_with(|| Known { number: things as u32, ..Known::default() });
            found.push((known.number, known.word(detail, name), root.block));
        }
        finder.numbered(found)
    }

    /// The frames of the threads on whose stacks there are roots.
    fn frames(&self, graph: Graph<'_>) -> Vec<Vec<FrameAt>> {
        let threads = &self.holding.threads;
        let mut order: Vec<usize> = (0..threads.len()).collect();
        order.sort_unstable_by_key(|thread| threads[*thread].stack_start());
        let mut is_wanted = vec![false; threads.len()];
        for root in graph.roots() {
            let Place::Memory(address) = root.at else { continue };
            let behind = order.partition_point(|thread| threads[*thread].stack_start() <= address);
            if let Some(at) = behind.checked_sub(1) {
                is_wanted[order[at]] = true;
            }
        }
        let mut contents = Contents::default();
        let walk = |(thread, is_wanted): (_, &bool)| {
            let thread: &super::StackCopy = thread;
            if *is_wanted { thread.frames(self.space, &mut contents) } else { Vec::new() }
        };
        threads.iter().zip(&is_wanted).map(walk).collect()
    }

    /// The functions of all frames.
    fn functions(&self, frames: &[Vec<FrameAt>], symbolizer: &mut Symbolizer) -> HashMap<Address, Frame> {
        let code = |frame: &FrameAt| CodeAddress { address: frame.address, exact: frame.is_innermost };
        let codes: Vec<_> = frames.iter().flatten().map(code).collect();
        let named = symbolizer.resolve(self.space, &codes);
        // The last one at an address has the frame; others are inlined there.
        codes.iter().zip(named).filter_map(|(code, mut frames)| Some((code.address, frames.pop()?))).collect()
    }

    /// What lies where on stacks. Threads' own variables lie on most stacks behind the frames.
    fn spans(&self, frames: &[Vec<FrameAt>]) -> [Spans; 3] {
        let threads = || self.holding.threads.iter().enumerate();
        let in_frames = threads().zip(frames).flat_map(|((thread, _), frames)| {
            let frames = frames.iter().enumerate();
            frames.map(move |(at, frame)| (frame.bytes.clone(), Thing::Frame(thread, at)))
        });
        let bytes = self.loaded.thread_local_bytes();
        // The control block is behind them, on aarch64 before them.
        let (before, behind) = if cfg!(target_arch = "aarch64") { (CONTROL, bytes) } else { (bytes, CONTROL) };
        let tls = threads().filter(|(_, copy)| copy.control_block != 0).map(|(thread, copy)| {
            let own = copy.control_block.saturating_sub(before)..copy.control_block.saturating_add(behind);
            (own, Thing::Tls(thread))
        });
        let stacks = threads().map(|(thread, copy)| (copy.range.clone(), Thing::Stack(thread)));
        [Spans::new(in_frames), Spans::new(tls), Spans::new(stacks)]
    }

    fn mapping(&self, address: u64) -> Option<(usize, &Region)> {
        let mappings = &self.holding.mappings;
        let at = mappings.partition_point(|mapping| mapping.start.0 <= address).checked_sub(1)?;
        Some((at, &mappings[at])).filter(|(_, mapping)| address < mapping.end.0)
    }
}

/// A thing whose words were met.
#[derive(Debug, Default)]
struct Known {
    number: u32,
    /// Its words by what tells them apart, with their names: as long as there are few.
    words: BTreeMap<u64, String>,
    are_many: bool,
}

impl Known {
    /// What tells a word apart.
    fn word(&mut self, detail: u64, name: impl FnOnce() -> String) -> u64 {
        if !self.are_many && !self.words.contains_key(&detail) {
            self.are_many = self.words.len() == FEW;
            if self.are_many { self.words.clear() } else { drop(self.words.insert(detail, name())) }
        }
        detail
    }
}

/// Things by where they lie.
struct Spans(Vec<(Range<u64>, Thing)>);

impl Spans {
    fn new(spans: impl Iterator<Item = (Range<u64>, Thing)>) -> Self {
        let mut spans: Vec<_> = spans.filter(|(range, _)| !range.is_empty()).collect();
        spans.sort_unstable_by_key(|(range, _)| range.start);
        Self(spans)
    }

    fn at(&self, address: u64) -> Option<&Thing> {
        let behind = self.0.partition_point(|(range, _)| range.start <= address);
        let (range, thing) = self.0.get(behind.checked_sub(1)?)?;
        range.contains(&address).then_some(thing)
    }
}

/// Finds what words are parts of.
struct Finder<'a> {
    at: &'a Surroundings<'a>,
    /// Frames, threads' own variables, and stacks, each of which is asked if those before have nothing.
    spans: [Spans; 3],
    frames: Vec<Vec<FrameAt>>,
    functions: HashMap<Address, Frame>,
    /// The files in whose data there are roots.
    objects: HashMap<ObjectId, Arc<Object>>,
    data: Data,
    /// How many words without a variable's name were met in each file.
    unnamed: HashMap<ObjectId, usize>,
    things: HashMap<Thing, Known>,
}

/// What a word is a part of, what tells it apart there, and what it is called.
type Found = (Thing, u64, Box<dyn FnOnce() -> String>);

impl Finder<'_> {
    fn thing(&mut self, at: Place) -> Found {
        let address = match at {
            Place::Memory(address) => address,
            Place::Given(position) => return self.given(position),
        };
        let whole = |thing: Thing| -> Found { (thing, 0, Box::new(String::new)) };
        if let Some(thing) = self.spans.iter().find_map(|spans| spans.at(address)) {
            return whole(thing.clone());
        }
        if let Some(place) = self.at.loaded.at(address) {
            return self.in_file(&place);
        }
        match self.at.mapping(address) {
            Some((mapping, _)) => whole(Thing::Mapping(mapping)),
            None => whole(Thing::Unknown),
        }
    }

    fn given(&self, position: usize) -> Found {
        let whole = |thing: Thing| -> Found { (thing, 0, Box::new(String::new)) };
        match self.at.holding.given.what(position) {
            Some(What::Kernel(name)) => whole(Thing::Kernel(name)),
            Some(What::Ignored) => whole(Thing::Ignored),
            Some(What::Table(thread)) => whole(Thing::Tls(thread)),
            Some(What::KeptTable) => whole(Thing::EndedTls),
            Some(What::Stack(thread)) => whole(Thing::Stack(thread)),
            Some(What::Register(thread, name)) => {
                let text = format!("register {name} of {}", self.thread(thread));
                (Thing::Registers(thread), position as u64, Box::new(|| text))
            }
            Some(What::Realloc(thread)) => {
                let text = format!("realloc in {}", self.thread(thread));
                (Thing::Registers(thread), position as u64, Box::new(|| text))
            }
            None => whole(Thing::Unknown),
        }
    }

    fn in_file(&mut self, place: &InFile<'_>) -> Found {
        let (id, path) = (place.object.id(), Arc::clone(place.module));
        if let Some(variable) = self.data.variable(place.object, place.address) {
            let (name, offset) = (variable.name.clone(), place.address - variable.bytes.start);
            let text = move || match offset {
                0 => format!("{name} ({})", path.display()),
                _ => format!("{name}+{offset:#x} ({})", path.display()),
            };
            return (Thing::Variable(id, variable.bytes.start), offset, Box::new(text));
        }
        let thing = Thing::Unnamed(id, place.address);
        let unnamed = self.unnamed.entry(id).or_default();
        let is_known = self.things.contains_key(&thing);
        if !is_known && *unnamed == UNNAMED {
            return (Thing::Rest(id), 0, Box::new(String::new));
        }
        *unnamed += usize::from(!is_known);
        (thing, 0, Box::new(String::new))
    }

    fn thread(&self, thread: usize) -> String {
        let copy = &self.at.holding.threads[thread];
        if copy.comm.is_empty() {
            format!("thread {}", copy.tid)
        } else {
            format!("thread {} ({})", copy.tid, copy.comm)
        }
    }

    fn name(&self, thing: &Thing) -> String {
        let path_of =
            |id: &ObjectId| self.objects.get(id).map_or_else(String::new, |object| object.path().display().to_string());
        match thing {
            Thing::Variable(id, start) => {
                let variable = self.objects.get(id).and_then(|object| self.data.variable(object, *start));
                format!("{} ({})", variable.map_or("?", |variable| &variable.name), path_of(id))
            }
            Thing::Unnamed(id, address) => {
                let path = path_of(id);
                format!("{}+{address:#x} ({path})", path.rsplit('/').next().unwrap_or_default())
            }
            Thing::Rest(id) => format!("variables without a name ({})", path_of(id)),
            Thing::Kernel(name) => name.clone(),
            Thing::Tls(thread) => format!("thread-local storage of {}", self.thread(*thread)),
            Thing::EndedTls => "thread-local storage of threads that have ended".to_owned(),
            Thing::Ignored => IGNORED.to_owned(),
            Thing::Mapping(at) => mapping_name(&self.at.holding.mappings[*at]),
            Thing::Frame(thread, at) => {
                let function = self.functions.get(&self.frames[*thread][*at].address);
                let function = function.map_or_else(|| "?".to_owned(), place);
                format!("stack of {} in {function}", self.thread(*thread))
            }
            Thing::Stack(thread) => format!("stack of {}", self.thread(*thread)),
            Thing::Registers(thread) => format!("registers of {}", self.thread(*thread)),
            Thing::Unknown => "memory that is not known".to_owned(),
        }
    }

    /// Gives things and words numbers in the order in which they are preferred. `found` has them by the numbers that they got
    /// when they were met.
    fn numbered(mut self, found: Vec<(u32, u64, u32)>) -> Named {
        let mut things: Vec<(Thing, Known)> = std::mem::take(&mut self.things).into_iter().collect();
        things.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let (mut words, mut variables) = (Vec::new(), Vec::new());
        // By the first number: the new one, the word of the whole, and those of its words.
        let mut of = vec![(0, 0, HashMap::new(), false); things.len()];
        for (number, (thing, known)) in things.iter().enumerate() {
            let name = Name { kind: thing.kind(), text: self.name(thing) };
            let mut by_detail = HashMap::new();
            for (detail, text) in known.words.iter().filter(|(_, text)| !text.is_empty()) {
                by_detail.insert(*detail, words.len() as u32);
                words.push(Name { kind: name.kind, text: text.clone() });
            }
            of[known.number as usize] = (number as u32, words.len() as u32, by_detail, thing.is_lasting());
            words.push(name.clone());
            variables.push(name);
        }
        let (mut lasting, mut passing) = (Vec::new(), Vec::new());
        for (thing, detail, block) in found {
            let (variable, whole, by_detail, is_lasting) = &of[thing as usize];
            let word = by_detail.get(&detail).copied().unwrap_or(*whole);
            let list = if *is_lasting { &mut lasting } else { &mut passing };
            list.push(Source { variable: *variable, word, block });
        }
        Named { sources: Sources::new(lasting, passing), words, variables }
    }
}

fn mapping_name(mapping: &Region) -> String {
    let range = format!("{}-{}", mapping.start, mapping.end);
    match mapping.kind {
        RegionKind::Heap => "memory that the program has taken from the break".to_owned(),
        RegionKind::Stack => format!("stack at {range}"),
        _ if mapping.name.is_file() => format!("mapping of {}", mapping.name.display().display()),
        _ => format!("mapping at {range}"),
    }
}
