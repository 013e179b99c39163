//! The programs of two snapshots, by the names of their processes.
//!
//! Processes of two runs have nothing in common but their names, so what the processes of one name hold is summed. What a
//! snapshot says a process holds, and does not list by site, is kept apart: a site that is missing may be among it.

use std::collections::{BTreeMap, HashMap};

use crate::model::{Pair, Pid, Process, ProgramDiff, Snapshot, Tally, TraceMode};

/// The programs of two snapshots.
pub struct Programs {
    /// Those of both, in the order of their names.
    pub programs: Vec<ProgramDiff>,
    /// For each site of each snapshot the place of its program.
    pub of_site: Pair<Vec<usize>>,
}

/// One name's processes in one snapshot.
#[derive(Default)]
struct Program {
    processes: u64,
    held: Tally,
    listed: Tally,
}

/// One snapshot's programs by name, and the name for each site.
struct Roster<'a> {
    programs: BTreeMap<&'a str, Program>,
    of_site: Vec<&'a str>,
}

/// Finds the programs of both, and takes those of one name for the same.
pub fn pair(snapshots: Pair<&Snapshot>) -> Programs {
    let rosters = snapshots.map(roster);
    let renamed = renamed(snapshots, &rosters);
    let mut programs: Vec<ProgramDiff> = Vec::new();
    let mut places: Pair<HashMap<&str, usize>> = Pair::default();
    for (name, program) in &rosters.before.programs {
        places.before.insert(name, programs.len());
        programs.push(ProgramDiff {
            name: Pair { before: Some((*name).to_owned()), after: None },
            processes: Pair { before: program.processes, after: 0 },
            outstanding: Pair { before: program.outstanding(), after: Tally::default() },
            unlisted: Pair { before: program.unlisted(), after: Tally::default() },
        });
    }
    for (name, program) in &rosters.after.programs {
        let earlier = renamed.filter(|renamed| renamed.after == *name).map_or(*name, |renamed| renamed.before);
        let place = places.before.get(earlier).copied().unwrap_or(programs.len());
        if place == programs.len() {
            programs.push(ProgramDiff {
                name: Pair::default(),
                processes: Pair::default(),
                outstanding: Pair::default(),
                unlisted: Pair::default(),
            });
        }
        places.after.insert(name, place);
        if let Some(both) = programs.get_mut(place) {
            both.name.after = Some((*name).to_owned());
            both.processes.after = program.processes;
            both.outstanding.after = program.outstanding();
            both.unlisted.after = program.unlisted();
        }
    }
    let of_site = rosters.as_ref().zip(places.as_ref());
    let place = |(roster, places): (&Roster<'_>, &HashMap<&str, usize>)| {
        roster.of_site.iter().map(|name| places.get(name).copied().unwrap_or_default()).collect()
    };
    let of_site = of_site.map(place);
    Programs { programs, of_site }
}

fn roster(snapshot: &Snapshot) -> Roster<'_> {
    let mut programs: BTreeMap<&str, Program> = BTreeMap::new();
    let mut by_pid: HashMap<Pid, &Process> = HashMap::new();
    for process in &snapshot.processes {
        by_pid.entry(process.pid).or_insert(process);
        let program = programs.entry(&process.comm).or_default();
        program.processes = program.processes.saturating_add(process.merged.max(1));
        program.held.join(Tally { bytes: process.outstanding_bytes, count: process.outstanding_count });
    }
    let mut of_site = Vec::with_capacity(snapshot.sites.len());
    for site in &snapshot.sites {
        // As `Snapshot::process_of` has it, without going through all processes for each site.
        let named = site.process.and_then(|place| snapshot.processes.get(place));
        let process = named.filter(|process| process.pid == site.pid).or_else(|| by_pid.get(&site.pid).copied());
        let name = process.map_or("", |process| process.comm.as_str());
        let listed = &mut programs.entry(name).or_default().listed;
        listed.join(Tally { bytes: site.outstanding_bytes, count: site.outstanding_count });
        of_site.push(name);
    }
    Roster { programs, of_site }
}

impl Program {
    fn outstanding(&self) -> Tally {
        Tally { bytes: self.held.bytes.max(self.listed.bytes), count: self.held.count.max(self.listed.count) }
    }

    fn unlisted(&self) -> Tally {
        Tally {
            bytes: self.held.bytes.saturating_sub(self.listed.bytes),
            count: self.held.count.saturating_sub(self.listed.count),
        }
    }
}

/// A program that has another name in each snapshot, as many versions have: the only one that has a site and no namesake, in traces
/// that were pointed at processes. Where many programs are traced, two that have no namesake may be any.
fn renamed<'a>(snapshots: Pair<&Snapshot>, rosters: &Pair<Roster<'a>>) -> Option<Pair<&'a str>> {
    let is_pointed = snapshots.map(|it| matches!(it.target.mode, TraceMode::Pid | TraceMode::Command));
    if !(is_pointed.before && is_pointed.after) {
        return None;
    }
    let alone = |one: &Roster<'a>, other: &Roster<'a>| {
        let has_no_namesake = |(name, program): &(&&'a str, &Program)| {
            program.outstanding() != Tally::default() && !other.programs.contains_key(*name)
        };
        let mut alone = one.programs.iter().filter(has_no_namesake).map(|(name, _)| *name);
        alone.next().filter(|_| alone.next().is_none())
    };
    let Pair { before, after } = rosters;
    Some(Pair { before: alone(before, after)?, after: alone(after, before)? })
}
