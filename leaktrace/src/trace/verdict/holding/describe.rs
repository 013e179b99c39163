//! From what was kept of leak checks to words: who holds the blocks of each site, and of what class they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Holding;
use super::roots::{Name, Surroundings};
use super::types::Types;
use crate::analysis::reachability::{Graph, NONE, Step, Trail, Trails, retained};
use crate::kernel::drain::TabledBlock;
use crate::model::{BlockTally, Capture, Described, Holder, Retained, RootKind, Tally};
use crate::process::maps::AddressSpace;
use crate::symbolize::Symbolizer;

/// Holders of a site that are told.
const HOLDERS: usize = 5;
/// Variables of a process that are told.
const RETAINED: usize = 20;
/// What a block from before the trace is called.
const UNRECORDED: &str = "unrecorded block";
/// In the place of a site: from here on upwards, unrecorded blocks, by class.
const UNRECORDED_CLASSES: u32 = TabledBlock::UNRECORDED - (1 << 16);

/// Puts into a capture what was found out of a process' blocks. `block_of` names the blocks of the capture's site at a place.
pub fn describe(
    capture: &mut Capture,
    holding: &mut Holding,
    space: &AddressSpace,
    symbolizer: &mut Symbolizer,
    block_of: &dyn Fn(usize) -> String,
) {
    // Sites of the same frames are one.
    let merged = capture.merged();
    let mut first = HashMap::new();
    for (place, merged) in merged.iter().enumerate() {
        first.entry(*merged as u32).or_insert(place);
    }
    let recorded = holding.sites.iter_mut().filter(|site| **site != TabledBlock::UNRECORDED);
    recorded.for_each(|site| *site = merged.get(*site as usize).map_or(NONE, |merged| *merged as u32));
    let loaded = space.loaded();
    let types = Types::find(holding, &loaded, symbolizer);
    let unrecorded = tell_apart(holding, &types);
    let holding = &*holding;
    for (site, class) in types.of_sites(holding) {
        capture.described.entry(site as usize).or_default().type_name = Some(class);
    }
    name_blocks(capture, holding, &types, &merged);

    let graph = Graph::new(&holding.blocks, &holding.scan, &holding.judgement);
    let named = Surroundings { holding, space, loaded: &loaded }.name(graph, symbolizer);
    let trails = Trails::find(graph, &named.sources, &holding.sites).of_sites(HOLDERS);
    let block_of = |site: u32| match site.checked_sub(UNRECORDED_CLASSES) {
        None => first.get(&site).map_or_else(|| "block".to_owned(), |place| block_of(*place)),
        Some(class) => match unrecorded.get(class as usize) {
            Some(class) => format!("{UNRECORDED} ({class})"),
            None => UNRECORDED.to_owned(),
        },
    };
    let mut known = HashMap::new();
    let mut block_of = |site: u32| known.entry(site).or_insert_with(|| block_of(site)).clone();
    for (site, trails) in trails.into_iter().filter(|(site, _)| is_recorded(*site)) {
        let holders = trails.iter().map(|trail| holder(trail, &named.words, &mut block_of)).collect();
        let described: &mut Described = capture.described.entry(site as usize).or_default();
        described.holders = Some(holders);
    }
    // Where not all roots are known, others may hold the same.
    if holding.scan.roots_left_out == 0
        && let Some(process) = capture.processes.get_mut(holding.process)
    {
        let counts = |block: u32| holding.sites.get(block as usize).is_none_or(|site| is_recorded(*site));
        process.holders = largest(&named.variables, &retained(graph, &named.sources, counts));
    }
}

/// Whether this may be the site of a recorded block.
fn is_recorded(site: u32) -> bool {
    site < UNRECORDED_CLASSES || site == NONE
}

/// Puts, for unrecorded blocks that are objects, a number for their class in the place of the site: the classes.
fn tell_apart<'a>(holding: &mut Holding, types: &'a Types) -> Vec<&'a Arc<str>> {
    let mut numbers: HashMap<&Arc<str>, u32> = HashMap::new();
    let mut classes = Vec::new();
    let of_blocks: Vec<_> = types.of_blocks(holding).collect();
    for (block, class) in of_blocks {
        let Some(site) = holding.sites.get_mut(block as usize).filter(|site| **site == TabledBlock::UNRECORDED) else {
            continue;
        };
        let next = UNRECORDED_CLASSES + classes.len() as u32;
        let number = *numbers.entry(class).or_insert(next);
        if number == next && next < TabledBlock::UNRECORDED {
            classes.push(class);
        }
        *site = number.min(TabledBlock::UNRECORDED);
    }
    classes
}

fn holder(trail: &Trail, words: &[Name], block_of: &mut dyn FnMut(u32) -> String) -> Holder {
    let (root, word) = match words.get(trail.word as usize) {
        Some(Name { kind, text }) => (*kind, text.clone()),
        None => (RootKind::None, "nothing that is known".to_owned()),
    };
    let mut path = vec![word];
    for step in &trail.steps {
        if step.is_cut {
            path.push("…".to_owned());
        }
        if step.longest > 0 {
            path.push(link(step, block_of));
        }
    }
    Holder { root, path, blocks: trail.blocks, bytes: trail.bytes }
}

/// `block from session_new (app.c:12)`, `×1,234 blocks from list_push (list.c:7)`.
fn link(step: &Step, block_of: &mut dyn FnMut(u32) -> String) -> String {
    if step.site == TabledBlock::UNRECORDED {
        // Of whatever kinds.
        return if step.longest == 1 { UNRECORDED.to_owned() } else { format!("{UNRECORDED}s") };
    }
    let block = if step.site == NONE { "block".to_owned() } else { block_of(step.site) };
    let again = if step.recurs { ", again and again" } else { "" };
    match step.longest {
        1 => format!("{block}{again}"),
        longest => format!("×{} {}{again}", grouped(longest), block.replacen("block", "blocks", 1)),
    }
}

/// A number with its thousands set apart.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn largest(variables: &[Name], retained: &[Tally]) -> Vec<Retained> {
    let mut largest: Vec<_> = variables.iter().zip(retained).filter(|(_, tally)| tally.count > 0).collect();
    largest.sort_by(|(a, of_a), (b, of_b)| (of_b.bytes, of_b.count, &a.text).cmp(&(of_a.bytes, of_a.count, &b.text)));
    largest.truncate(RETAINED);
    let told = |(name, tally): (&Name, &Tally)| Retained {
        root: name.kind,
        name: name.text.clone(),
        blocks: tally.count,
        bytes: tally.bytes,
    };
    largest.into_iter().map(told).collect()
}

/// Gives the blocks that the capture keeps their classes.
fn name_blocks(capture: &mut Capture, holding: &Holding, types: &Types, merged: &[usize]) {
    let own: HashSet<usize> =
        holding.sites.iter().filter(|site| **site < UNRECORDED_CLASSES).map(|site| *site as usize).collect();
    let classes: HashMap<u32, &Arc<str>> = types.of_blocks(holding).collect();
    if classes.is_empty() {
        return;
    }
    for (site, block) in capture.blocks.iter_mut().flat_map(BlockTally::kept_mut) {
        if merged.get(site).is_some_and(|site| own.contains(site))
            && let Some((known, 0)) = holding.blocks.find(block.address.0)
        {
            block.type_name = classes.get(&known).map(|class| Arc::clone(class));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_from_its_root_on() {
        let words = [Name { kind: RootKind::Data, text: "cache+0x10 (/usr/bin/app)".to_owned() }];
        let step = |site, longest| Step { site, longest, recurs: false, is_cut: false };
        let steps = vec![step(7, 1), Step { is_cut: true, ..step(8, 1234) }, Step { recurs: true, ..step(9, 1) }];
        let trail = Trail { word: 0, steps, blocks: 5, bytes: 80 };
        let told = holder(&trail, &words, &mut |site| format!("block from f{site} (app.c:12)"));
        let path = [
            "cache+0x10 (/usr/bin/app)",
            "block from f7 (app.c:12)",
            "…",
            "×1,234 blocks from f8 (app.c:12)",
            "block from f9 (app.c:12), again and again",
        ];
        assert_eq!((told.root, told.path.as_slice()), (RootKind::Data, path.map(str::to_owned).as_slice()));
        assert_eq!((told.blocks, told.bytes), (5, 80));
        assert_eq!([1, 999, 1000, 1_234_567].map(grouped), ["1", "999", "1,000", "1,234,567"]);
    }
}
