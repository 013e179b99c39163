//! Names for the frames of a capture: all addresses of all processes in one batch.

use std::collections::{HashMap, HashSet};

use crate::model::{Address, Capture, Frame, RawProcess, Snapshot, StackState};
use crate::process::maps::AddressSpace;
use crate::symbolize::{CodeAddress, Symbolizer};

/// Address spaces by the number of their life, as they were at a capture. Later changes leave them alone, but for the names of
/// code made at run time, which are those that its compiler has written by the time of naming.
pub type Spaces = HashMap<u32, AddressSpace>;

/// Turns a capture into a snapshot with names.
pub fn name(mut capture: Capture, spaces: &Spaces, symbolizer: &mut Symbolizer) -> Snapshot {
    let mut wanted: HashMap<u32, Vec<CodeAddress>> = HashMap::new();
    for site in &capture.sites {
        if let Some(process) = capture.processes.get(site.process) {
            let addresses = wanted.entry(process.life).or_default();
            addresses.extend(site.frames.iter().map(|address| CodeAddress::returning(*address)));
        }
    }
    for addresses in wanted.values_mut() {
        addresses.sort_unstable_by_key(|address| address.address);
        addresses.dedup();
    }
    let batch: Vec<(u32, &AddressSpace, &[CodeAddress])> =
        wanted.iter().filter_map(|(life, addresses)| Some((*life, spaces.get(life)?, addresses.as_slice()))).collect();
    let request: Vec<(&AddressSpace, &[CodeAddress])> =
        batch.iter().map(|(_, space, addresses)| (*space, *addresses)).collect();
    let names = symbolizer.resolve_batch(&request);
    mark_reused(&mut capture, spaces);
    let mut known: HashMap<(u32, Address), Vec<Frame>> = HashMap::new();
    for ((life, _, addresses), frames) in batch.iter().zip(names) {
        known.extend(addresses.iter().zip(frames).map(|(address, frames)| ((*life, address.address), frames)));
    }
    let mut resolver = |process: &RawProcess, stack: &[Address]| -> Vec<Frame> {
        stack
            .iter()
            .flat_map(|address| match known.get(&(process.life, *address)) {
                Some(frames) => frames.clone(),
                None => vec![Frame::unresolved(*address)],
            })
            .collect()
    };
    capture.into_snapshot(&mut resolver)
}

/// Marks and counts stacks through code of just-in-time compilers that lay where others of their functions lay, too: their maps do
/// not tell when. To be called when these have been read for the names.
fn mark_reused(capture: &mut Capture, spaces: &Spaces) {
    let mut counted = HashSet::new();
    for site in &mut capture.sites {
        let space = capture.processes.get(site.process).and_then(|process| spaces.get(&process.life));
        if site.stack_state >= StackState::Unsure || !space.is_some_and(|space| space.passes_reused_code(&site.frames))
        {
            continue;
        }
        let was_whole = site.stack_state == StackState::Whole && !site.truncated;
        site.stack_state = StackState::Unsure;
        // Other layouts of the process may have the same stack.
        if counted.insert((site.process, site.frames.clone())) {
            capture.losses.stacks_unsure += 1;
            if let Some(stacks) = &mut capture.stacks {
                stacks.complete = stacks.complete.saturating_sub(u64::from(was_whole));
            }
        }
    }
}
