//! Names for the frames of a capture: all addresses of all processes in one batch, and again where debug information was fetched
//! for them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::capture::Spaces;
use super::gaps::{self, Fetching};
use super::phases::Phases;
use super::verdict::holding::{self, Holding};
use crate::analysis::suppressions::Rules;
use crate::analysis::{advice, growth};
use crate::model::{Address, Capture, Code, Frame, Named, RawProcess, SiteId, Snapshot, StackState};
use crate::process::maps::{AddressSpace, Object};
use crate::symbolize::debuginfod::{Debuginfod, Settings};
use crate::symbolize::{CodeAddress, Note, Symbolizer};

/// The frames at each address of each life.
type Names = HashMap<(u32, Address), Vec<Arc<Frame>>>;

/// Turns captures into snapshots with names.
pub struct Namer {
    symbolizer: Symbolizer,
    /// With `--debuginfod`.
    debuginfod: Option<Debuginfod>,
    /// Whether debuginfod servers are configured.
    has_servers: bool,
    /// What is not to be reported.
    suppressions: Rules,
}

impl Namer {
    /// Starts the threads that read debug information and, with `fetches`, those that fetch it.
    ///
    /// # Errors
    /// Threads cannot be started.
    pub fn start(fetches: bool, suppressions: Rules) -> io::Result<Self> {
        let settings = Settings::from_environment();
        let has_servers = settings.has_servers();
        let debuginfod = fetches.then(|| Debuginfod::start(settings)).transpose()?;
        Ok(Self { symbolizer: Symbolizer::new()?, debuginfod, has_servers, suppressions })
    }

    /// What ends the fetching when it is set; `None` where nothing is fetched.
    pub fn stop(&self) -> Option<Arc<AtomicBool>> {
        self.debuginfod.as_ref().map(Debuginfod::stop)
    }

    /// What kept frames from being named.
    pub fn notes(&self) -> impl Iterator<Item = &Note> {
        self.symbolizer.notes()
    }

    /// Names what was captured. Only the last report waits for debug information to be fetched; an interim report orders it for
    /// later ones.
    pub fn name(&mut self, mut capture: Capture, spaces: &mut Spaces, phases: &mut Phases) -> Snapshot {
        let wanted = wanted(&capture);
        let lives: Vec<u32> = capture.processes.iter().map(|process| process.life).collect();
        let names = self.resolve(&wanted, spaces);
        phases.done("naming the code");
        // They may be large, and nobody needs them afterwards.
        for mut holding in std::mem::take(&mut spaces.holdings) {
            self.describe(&mut capture, &mut holding, &names, spaces);
            phases.done("finding out who holds blocks");
        }
        let spaces = &*spaces;
        mark_unsure(&mut capture, spaces);
        phases.done("marking unsure stacks");
        growth::judge(&mut capture);
        phases.done("judging growth");
        let mut snapshot = snapshot(capture, &names, spaces);
        phases.done("putting the sites together");
        if self.debuginfod.is_some() {
            let objects = gaps::worth_fetching(&snapshot, &lives, spaces, &self.symbolizer);
            if self.fetch(&objects, snapshot.is_final) {
                rename(&mut snapshot, &lives, &self.resolve(&wanted, spaces));
            }
            phases.done("fetching debug information");
        }
        let applied = self.suppressions.apply(&mut snapshot);
        snapshot.sum_growth();
        phases.done("applying suppressions");
        if snapshot.is_final {
            for used in applied.rules {
                log::info!("{used}");
            }
        }
        // Only when nothing is traced any more: package managers allocate too.
        if snapshot.is_final {
            snapshot.notes.extend(self.debuginfod.as_ref().and_then(Debuginfod::failures));
            let fetching = match (&self.debuginfod, self.has_servers) {
                (Some(_), _) => Fetching::Done,
                (None, true) => Fetching::Possible,
                (None, false) => Fetching::Unknown,
            };
            let gaps = gaps::find(&snapshot, &lives, spaces, &self.symbolizer);
            snapshot.notes.extend(gaps.note(fetching, phases.elapsed()));
            phases.done("looking for debug information");
            snapshot.recommendations = advice::advise(&snapshot);
        }
        snapshot
    }

    fn resolve(&mut self, wanted: &HashMap<u32, Vec<CodeAddress>>, spaces: &Spaces) -> Names {
        let batch: Vec<(u32, &AddressSpace, &[CodeAddress])> = wanted
            .iter()
            .filter_map(|(life, addresses)| Some((*life, spaces.get(*life)?, addresses.as_slice())))
            .collect();
        let request: Vec<(&AddressSpace, &[CodeAddress])> =
            batch.iter().map(|(_, space, addresses)| (*space, *addresses)).collect();
        let frames = self.symbolizer.resolve_batch(&request);
        let mut names = Names::new();
        for ((life, _, addresses), frames) in batch.iter().zip(frames) {
            let shared = |frames: Vec<Frame>| frames.into_iter().map(Arc::new).collect();
            names.extend(addresses.iter().zip(frames).map(|(at, frames)| ((*life, at.address), shared(frames))));
        }
        names
    }

    /// Adds to a capture who holds the blocks of a process.
    fn describe(&mut self, capture: &mut Capture, holding: &mut Holding, names: &Names, spaces: &Spaces) {
        let Some(life) = capture.processes.get(holding.process).map(|process| process.life) else { return };
        let Some(space) = spaces.get(life) else { return };
        let frames: Vec<Vec<Address>> = capture.sites.iter().map(|site| site.frames.clone()).collect();
        let block_of = |place: usize| {
            let frames = frames.get(place).into_iter().flatten();
            holding::block_of(frames.flat_map(|address| at(names, life, *address)).map(|frame| &**frame))
        };
        holding::describe(capture, holding, space, &mut self.symbolizer, &block_of);
    }

    /// Orders debug information for these objects and gives the symbolizer what has arrived; whether anything has.
    fn fetch(&mut self, objects: &[Arc<Object>], waits: bool) -> bool {
        let Some(debuginfod) = &mut self.debuginfod else { return false };
        for object in objects {
            debuginfod.order(object);
        }
        if waits {
            debuginfod.wait();
        }
        let mut any = false;
        for object in objects {
            if let Some(file) = debuginfod.file(object) {
                self.symbolizer.give(object, file);
                any = true;
            }
        }
        any
    }
}

/// Every address of a capture once, by life.
fn wanted(capture: &Capture) -> HashMap<u32, Vec<CodeAddress>> {
    let mut wanted: HashMap<u32, Vec<CodeAddress>> = HashMap::new();
    for site in capture.named_sites() {
        if let Some(process) = capture.processes.get(site.process) {
            let addresses = wanted.entry(process.life).or_default();
            addresses.extend(site.frames.iter().map(|address| CodeAddress::returning(*address)));
        }
    }
    for addresses in wanted.values_mut() {
        addresses.sort_unstable_by_key(|address| address.address);
        addresses.dedup();
    }
    wanted
}

/// What is known of an address in a process.
struct Place<'a> {
    code: Code<'a>,
    frames: &'a [Arc<Frame>],
}

fn snapshot(capture: Capture, names: &Names, spaces: &Spaces) -> Snapshot {
    // A process' stacks pass through the same few places many times.
    let mut places: HashMap<(u32, Address), Place<'_>> = HashMap::new();
    let mut resolver = |process: &RawProcess, stack: &[Address]| -> Named {
        let space = spaces.get(process.life);
        let mut frames = Vec::with_capacity(stack.len());
        let codes = stack.iter().map(|address| {
            let place = places.entry((process.life, *address)).or_insert_with(|| {
                let found = at(names, process.life, *address);
                Place { code: code(space, *address, found), frames: found }
            });
            match place.frames {
                [] => frames.push(Arc::new(Frame::unresolved(*address))),
                found => frames.extend_from_slice(found),
            }
            place.code
        });
        let id = SiteId::of(codes);
        frames.shrink_to_fit();
        Named { frames, id }
    };
    capture.into_snapshot(&mut resolver)
}

/// Gives the stacks of a snapshot better names.
fn rename(snapshot: &mut Snapshot, lives: &[u32], names: &Names) {
    for site in &mut snapshot.sites {
        let Some(life) = site.process.and_then(|index| lives.get(index)) else { continue };
        // One frame of each address stands for its function, whatever is inlined there.
        let whole = site.stack.iter().filter(|frame| !frame.inlined);
        site.stack = whole.flat_map(|frame| frames(names, *life, frame.address)).collect();
    }
    snapshot.name_peaks();
}

fn frames(names: &Names, life: u32, address: Address) -> Vec<Arc<Frame>> {
    match at(names, life, address) {
        [] => vec![Arc::new(Frame::unresolved(address))],
        frames => frames.to_vec(),
    }
}

fn at(names: &Names, life: u32, address: Address) -> &[Arc<Frame>] {
    names.get(&(life, address)).map_or(&[], Vec::as_slice)
}

/// Where the code that returns to an address comes from; `frames` are those at the address.
fn code<'a>(space: Option<&'a AddressSpace>, address: Address, frames: &'a [Arc<Frame>]) -> Code<'a> {
    let call = CodeAddress::returning(address).lookup();
    let object =
        space.and_then(|space| space.locate(call)).and_then(|location| Some((location.object?, location.offset)));
    let Some((object, offset)) = object else {
        let function = frames.last().and_then(|frame| frame.function.as_deref());
        return function.map_or(Code::Unknown, Code::Made);
    };
    let offset = object.virtual_address(offset).unwrap_or(offset);
    match object.build_id() {
        Some(id) => Code::Built(id, offset),
        None => Code::File(object.path().as_os_str().as_bytes(), offset),
    }
}

/// Marks and counts stacks through JIT code whose names are unsure: another JIT function lay at the same addresses and the perf
/// map does not say when, or the map was rewritten since the capture. Call it after the maps were read for the names.
fn mark_unsure(capture: &mut Capture, spaces: &Spaces) {
    let mut counted = HashSet::new();
    for site in &mut capture.sites {
        let space = capture.processes.get(site.process).and_then(|process| spaces.get(process.life));
        if site.stack_state >= StackState::Unsure || !space.is_some_and(|space| space.passes_unsure_code(&site.frames))
        {
            continue;
        }
        let before = std::mem::replace(&mut site.stack_state, StackState::Unsure);
        // Other layouts of the process may have the same stack.
        if counted.insert((site.process, site.frames.clone())) {
            capture.losses.stacks_unsure += 1;
            if let Some(stacks) = &mut capture.stacks {
                match before {
                    StackState::Whole => stacks.complete = stacks.complete.saturating_sub(1),
                    StackState::Guessed => stacks.guessed = stacks.guessed.saturating_sub(1),
                    _ => {}
                }
            }
        }
    }
}
