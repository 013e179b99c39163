//! Which sites of two snapshots are the same.
//!
//! First by code: the id of a site is a hash of its stack's build ids and offsets. What is left over is compared by the names of the
//! functions, for another version of a program has other build ids. This is done only for stacks through a file that
//! is not known to be the same in both: in one build, two calls by one function are two sites. Sites whose names are equal are
//! summed, since nothing says which of them is which.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::model::{Code, Frame, Matched, Pair, Site, SiteId, Snapshot};

/// Sites that are one.
pub struct Match {
    /// Their program.
    pub program: usize,
    /// Their places in the snapshots.
    pub sites: Pair<Vec<usize>>,
    /// How they were found to be one; `None` where they are in one snapshot only.
    pub matched: Option<Matched>,
}

/// Sites of a program by a fingerprint of their stacks.
type Groups = BTreeMap<(usize, SiteId), Pair<Vec<usize>>>;
/// Files by their paths.
type Files<'a> = HashSet<&'a Path>;

/// Puts every site of both snapshots into one match; `of_site` has the program of each.
pub fn pair(snapshots: Pair<&Snapshot>, of_site: Pair<&[usize]>, without_ids: bool) -> Vec<Match> {
    let by_code = |site: &Site| site.id.filter(|_| !without_ids).unwrap_or_else(|| place_id(site));
    let mut groups = Groups::new();
    gather(&mut groups, snapshots.before, of_site.before, by_code, |group| &mut group.before);
    gather(&mut groups, snapshots.after, of_site.after, by_code, |group| &mut group.after);
    let (both, alone): (Vec<_>, Vec<_>) =
        groups.into_iter().partition(|(_, sites)| !sites.before.is_empty() && !sites.after.is_empty());

    let mut same = Pair::<Files<'_>>::default();
    // That a place in a file is the same says nothing of the rest of the file.
    if !without_ids {
        for (_, sites) in &both {
            note_files(&mut same.before, snapshots.before, &sites.before);
            note_files(&mut same.after, snapshots.after, &sites.after);
        }
    }

    let found_by =
        |matched| move |((program, _), sites): ((usize, SiteId), Pair<Vec<usize>>)| Match { program, sites, matched };
    let mut matches: Vec<Match> = both.into_iter().map(found_by(Some(Matched::Code))).collect();
    let mut by_names: BTreeMap<_, (Pair<Vec<usize>>, Vec<_>)> = BTreeMap::new();
    for ((program, id), sites) in alone {
        // One side is empty. Where names are not the same in all processes, any will do, but the same in any order.
        let of_before = sites.before.iter().filter_map(|place| fingerprint(snapshots.before, *place, &same.before));
        let of_after = sites.after.iter().filter_map(|place| fingerprint(snapshots.after, *place, &same.after));
        match of_before.chain(of_after).min() {
            None => matches.push(Match { program, sites, matched: None }),
            Some(names) => {
                let (sums, members) = by_names.entry((program, names)).or_default();
                sums.before.extend_from_slice(&sites.before);
                sums.after.extend_from_slice(&sites.after);
                members.push(((program, id), sites));
            }
        }
    }
    for ((program, _), (sites, members)) in by_names {
        if sites.before.is_empty() || sites.after.is_empty() {
            matches.extend(members.into_iter().map(found_by(None)));
        } else {
            matches.push(Match { program, sites, matched: Some(Matched::Names) });
        }
    }
    matches
}

fn gather(
    groups: &mut Groups,
    snapshot: &Snapshot,
    of_site: &[usize],
    id: impl Fn(&Site) -> SiteId,
    side: impl Fn(&mut Pair<Vec<usize>>) -> &mut Vec<usize>,
) {
    for (place, (site, program)) in snapshot.sites.iter().zip(of_site).enumerate() {
        side(groups.entry((*program, id(site))).or_default()).push(place);
    }
}

fn note_files<'a>(files: &mut Files<'a>, snapshot: &'a Snapshot, places: &[usize]) {
    let sites = places.iter().filter_map(|place| snapshot.sites.get(*place));
    files.extend(sites.flat_map(|site| &site.stack).filter_map(|frame| frame.module.as_deref()));
}

/// The frames that are calls: inlined ones depend on the debug information that was there.
fn calls(site: &Site) -> impl Iterator<Item = &Frame> {
    site.stack.iter().map(AsRef::as_ref).filter(|frame| !frame.inlined)
}

/// An id of a stack by file, offset and function, for snapshots without ids.
fn place_id(site: &Site) -> SiteId {
    SiteId::of(calls(site).flat_map(|frame| {
        let place = match (&frame.module, frame.module_offset) {
            (Some(module), Some(offset)) => Code::File(module.as_os_str().as_bytes(), offset),
            _ => Code::Unknown,
        };
        [place, frame.function.as_deref().map_or(Code::Unknown, Code::Made)]
    }))
}

/// A fingerprint of the functions' names; `None` where names must not be compared: all files are the same in both snapshots, or a
/// function has no name in a file that may have changed.
fn fingerprint(snapshot: &Snapshot, place: usize, same: &Files<'_>) -> Option<SiteId> {
    let site = snapshot.sites.get(place)?;
    let is_same = |frame: &Frame| frame.module.as_deref().is_some_and(|module| same.contains(module));
    if calls(site).all(is_same) {
        return None;
    }
    let mut names = Vec::new();
    for frame in calls(site) {
        names.push(match (&frame.function, &frame.module, frame.module_offset) {
            (Some(name), _, _) if !name.is_empty() => Code::Made(without_suffix(name)),
            (_, Some(module), Some(offset)) if is_same(frame) => Code::File(module.as_os_str().as_bytes(), offset),
            _ => return None,
        });
    }
    Some(SiteId::of(names))
}

/// A function's name without what a compiler adds to the names of the copies that it makes of it, which differ from build to
/// build (GCC's and LLVM's clones).
fn without_suffix(name: &str) -> &str {
    const SUFFIXES: [&str; 7] = [".constprop.", ".isra.", ".part.", ".cold", ".lto_priv.", ".llvm.", " [clone ."];
    let ends = SUFFIXES.iter().filter_map(|suffix| name.find(suffix)).filter(|end| *end > 0);
    name.get(..ends.min().unwrap_or(name.len())).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::without_suffix;

    #[test]
    fn copies_that_a_compiler_makes_are_named_as_the_function() {
        let cases = [
            ("parse.constprop.0", "parse"),
            ("parse.part.0.isra.1", "parse"),
            ("Cache::put(int) [clone .isra.0]", "Cache::put(int)"),
            ("a::b.llvm.1234", "a::b"),
            (".cold", ".cold"),
            ("parse", "parse"),
        ];
        for (name, plain) in cases {
            assert_eq!(without_suffix(name), plain);
        }
    }
}
