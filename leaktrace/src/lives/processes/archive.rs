//! Lives that are over and whose records are out of the tables: kept for the report, within a budget.
//!
//! Beyond the budget those that ended first are merged with others of their name and program into one *group*, in which
//! equal stacks are one site. Every number stays in the report, and the report says how many lives a group is made of; what
//! is lost is which process a number is of.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;

use leaktrace_common::abi::Process;
use leaktrace_common::unwind::Stop;

use super::Processes;
use crate::kernel::reclaim::DeadSite;
use crate::lives::life::Life;
use crate::model::{Address, Counters, Pid, StackState};
use crate::process::maps::{AddressSpace, Pooled};

/// Memory for lives that are kept one by one, in bytes, about.
const BUDGET: usize = 64 << 20;
/// Memory for groups, in bytes, about.
const GROUPS_BUDGET: usize = 64 << 20;
/// What a life takes beside its sites: its mappings and names.
const LIFE_BYTES: usize = 2048;
/// What a site takes beside its frames, and a block.
const SITE_BYTES: usize = 224;
const BLOCK_BYTES: usize = 48;

/// What remains of lives that are over.
pub struct Archive {
    /// Slots whose lives have ended, and whose records are still in the tables.
    reclaimable: HashSet<u32>,
    /// Numbers of lives that are kept one by one, the first to have ended first.
    order: VecDeque<u32>,
    /// What they take, about.
    bytes: usize,
    budget: usize,
    groups: HashMap<(String, Option<PathBuf>), Group>,
    groups_bytes: usize,
    groups_budget: usize,
    merged: Merged,
    /// Sums over all lives that are out of the tables.
    counters: Counters,
}

/// The sites of a group: their positions among the remains of the life that stands for it.
struct Group {
    number: u32,
    pooled: Pooled,
    sites: HashMap<Kind, usize>,
}

/// What makes two stacks one: frames, whether they were cut, and why there are no more.
type Kind = (Box<[Address]>, bool, Option<Stop>);

/// What was merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Lives that are not told apart any more.
    pub lives: u64,
    /// Allocations whose stacks were dropped, since groups had used up their memory.
    pub without_stack: u64,
}

impl Default for Archive {
    fn default() -> Self {
        Self {
            reclaimable: HashSet::new(),
            order: VecDeque::new(),
            bytes: 0,
            budget: BUDGET,
            groups: HashMap::new(),
            groups_bytes: 0,
            groups_budget: GROUPS_BUDGET,
            merged: Merged::default(),
            counters: Counters::default(),
        }
    }
}

impl Archive {
    /// Notes that the records of the life in a slot can be taken out of the tables.
    pub(super) fn mark_reclaimable(&mut self, slot: u32) {
        self.reclaimable.insert(slot);
    }
}

impl Processes {
    /// Keeps slots that could not be emptied in this pass for the next one.
    pub fn keep_reclaimable(&mut self, slots: impl IntoIterator<Item = u32>) {
        self.archive.reclaimable.extend(slots);
    }

    /// How many lives can be taken out of the tables.
    pub fn reclaimable(&self) -> usize {
        self.archive.reclaimable.len()
    }

    /// The slots whose records can be taken out of the tables.
    pub fn take_reclaimable(&mut self) -> HashSet<u32> {
        std::mem::take(&mut self.archive.reclaimable)
    }

    /// Keeps what was taken out of the tables for the life in a slot, which is free from now on.
    pub fn put_into_archive(&mut self, slot: u32, last: &Process, sites: Vec<DeadSite>) {
        let Some(number) = self.by_slot.remove(&slot) else { return };
        let Some(life) = self.lives.get_mut(&number) else { return };
        life.observe(last);
        life.slot = None;
        life.ended = true;
        let sites = life.settle_dead(sites);
        for site in &sites {
            self.archive.counters.add(&site.counters);
        }
        self.archive.bytes += bytes(&sites);
        life.remains = Some(sites);
        self.archive.order.push_back(number);
        while self.archive.bytes > self.archive.budget && self.merge_first() {}
    }

    /// Merges the life that ended first into the group of its kind.
    fn merge_first(&mut self) -> bool {
        let Some(number) = self.archive.order.pop_front() else { return false };
        let Some(life) = self.lives.get_mut(&number) else { return true };
        let Some(sites) = life.remains.take() else { return true };
        self.archive.bytes = self.archive.bytes.saturating_sub(bytes(&sites));
        if life.named {
            // Named by the user, so never many.
            life.remains = Some(sites);
            return true;
        }
        let space = std::mem::replace(&mut life.space, AddressSpace::empty(Pid(0)));
        let (mut key, counters) = ((life.comm.clone(), life.exe.clone()), life.counters);
        self.forget(number);

        let over_budget = self.archive.groups_bytes > self.archive.groups_budget;
        if over_budget && !self.archive.groups.contains_key(&key) {
            key = (String::new(), None);
        }
        let group = self.archive.groups.entry(key).or_insert_with_key(|(comm, exe)| {
            self.archive.groups_bytes += LIFE_BYTES;
            let number = self.next;
            self.next += 1;
            let group = Life::new(Pid(0), 0, AddressSpace::empty(Pid(0)));
            let (comm, exe) = (comm.clone(), exe.clone());
            self.lives.insert(number, Life { comm, exe, ended: true, remains: Some(Vec::new()), ..group });
            Group { number, pooled: Pooled::default(), sites: HashMap::new() }
        });
        let Some(life) = self.lives.get_mut(&group.number) else { return true };
        life.absorb(&counters);
        self.archive.merged.lives += 1;
        let remains = life.remains.get_or_insert_default();
        for mut site in sites {
            let frames = site.frames.iter().map(|frame| group.pooled.adopt(&mut life.space, &space, *frame));
            site.frames = frames.collect();
            // Code without a file is one place here: equal frames need not be the same code, so no walk completes another.
            site.stack_state = site.stack_state.settled();
            let mut kind = (site.frames.clone(), site.truncated, site.broken);
            if over_budget && !group.sites.contains_key(&kind) {
                self.archive.merged.without_stack += site.counters.alloc_count;
                kind = (Box::default(), false, None);
                site = DeadSite { frames: Box::default(), truncated: false, stack_state: StackState::Cut, ..site };
            }
            if let Some(known) = group.sites.get(&kind).and_then(|position| remains.get_mut(*position)) {
                known.absorb(site);
            } else {
                group.sites.insert(kind, remains.len());
                let site = site.without_blocks();
                // Its frames are in the key as well.
                self.archive.groups_bytes += bytes_of(&site) + site.frames.len() * size_of::<Address>();
                remains.push(site);
            }
        }
        true
    }

    /// What was merged so far.
    pub fn merged(&self) -> Merged {
        self.archive.merged
    }

    /// What all lives that are out of the tables have allocated and freed.
    pub fn archived_counters(&self) -> Counters {
        self.archive.counters
    }

    /// What a life that is over has left, by its number in [`RawProcess::life`](crate::model::RawProcess::life).
    pub fn remains(&self, number: u32) -> &[DeadSite] {
        self.lives.get(&number).and_then(|life| life.remains.as_deref()).unwrap_or_default()
    }
}

fn bytes(sites: &[DeadSite]) -> usize {
    LIFE_BYTES + sites.iter().map(bytes_of).sum::<usize>()
}

fn bytes_of(site: &DeadSite) -> usize {
    SITE_BYTES + site.frames.len() * size_of::<Address>() + site.blocks.kept() * BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leaktrace_common::abi::PROCESS_EXITED;

    use super::*;
    use crate::lives::processes::{Followed, Roster};
    use crate::model::{BlockTally, Options, RawBlock, RawProcess};
    use crate::process::maps::ObjectStore;

    fn processes(budget: usize, groups_budget: usize) -> Processes {
        let mut processes = Processes::new(Arc::new(ObjectStore::new()), Followed::Everyone, Vec::new());
        processes.archive.budget = budget;
        processes.archive.groups_budget = groups_budget;
        processes
    }

    /// A stack that allocated two blocks of 10 bytes and freed one.
    fn site(frames: &[u64]) -> DeadSite {
        let block = RawBlock {
            site: 0,
            address: Address(0x10),
            size: 10,
            weight: None,
            age: std::time::Duration::from_secs(3),
            time: 0,
            ignored: false,
            kind: None,
        };
        let options = Options { show_allocs: true, ..Options::default() };
        DeadSite {
            layout: 0,
            frames: frames.iter().copied().map(Address).collect(),
            counters: Counters {
                alloc_bytes: 20,
                alloc_count: 2,
                free_bytes: 10,
                free_count: 1,
                ..Counters::default()
            },
            truncated: false,
            stack_state: StackState::Whole,
            broken: None,
            stacks: 1,
            blocks: BlockTally::read(1, &options, [block]).into_sites().remove(0),
        }
    }

    /// A life of this name that has ended, in slot 7 as all of them.
    fn live_and_die(processes: &mut Processes, pid: u32, comm: &str, sites: Vec<DeadSite>) {
        let mut process = Process { tgid: pid, seen_ns: u64::from(pid), peak_bytes: 15, ..Process::default() };
        process.comm[..comm.len()].copy_from_slice(comm.as_bytes());
        processes.began(7, &process);
        processes.put_into_archive(7, &Process { state: PROCESS_EXITED, ..process }, sites);
    }

    /// What all of them have left, each with its process.
    fn remains<'a>(
        processes: &'a Processes,
        roster: &'a Roster,
    ) -> impl Iterator<Item = (&'a RawProcess, &'a DeadSite)> {
        let lives = roster.processes.iter();
        lives.flat_map(|process| processes.remains(process.life).iter().map(move |site| (process, site)))
    }

    fn totals(processes: &Processes) -> Counters {
        let roster = processes.roster();
        let mut sum = Counters::default();
        remains(processes, &roster).for_each(|(_, site)| sum.add(&site.counters));
        sum
    }

    /// Not the number of any process.
    const NOBODY: u32 = 1 << 30;

    #[test]
    fn within_the_budget_every_life_is_kept_by_itself() {
        let mut processes = processes(BUDGET, GROUPS_BUDGET);
        for pid in 0..100 {
            live_and_die(&mut processes, NOBODY + pid, "short", vec![site(&[1, 2]), site(&[3])]);
        }
        let roster = processes.roster();
        assert_eq!(roster.processes.len(), 100);
        assert!(roster.processes.iter().all(|process| process.merged == 0 && process.exited));
        assert!(roster.by_slot.is_empty(), "the slot has no life any more");
        assert_eq!(remains(&processes, &roster).count(), 200);
        assert_eq!(processes.merged(), Merged::default());
    }

    #[test]
    fn beyond_it_lives_of_one_name_are_merged_and_no_number_is_lost() {
        let mut processes = processes(20 * LIFE_BYTES, GROUPS_BUDGET);
        for pid in 0..1000 {
            let comm = if pid % 2 == 0 { "even" } else { "odd" };
            live_and_die(&mut processes, NOBODY + pid, comm, vec![site(&[1, 2]), site(&[3])]);
        }
        let roster = processes.roster();
        let merged: Vec<_> = roster.processes.iter().filter(|process| process.merged > 0).collect();
        assert_eq!(merged.iter().map(|process| process.comm.as_str()).collect::<Vec<_>>(), ["even", "odd"]);
        let lives: u64 = roster.processes.iter().map(|process| process.merged.max(1)).sum();
        assert_eq!(lives, 1000);
        assert_eq!(merged.iter().map(|process| process.merged).sum::<u64>(), processes.merged().lives);
        assert!(roster.processes.len() <= 22, "{} are kept one by one", roster.processes.len() - 2);
        assert!(merged.iter().all(|process| process.peak_bytes == 15 * process.merged));
        let expected = Counters {
            alloc_bytes: 40_000,
            alloc_count: 4000,
            free_bytes: 20_000,
            free_count: 2000,
            ..Counters::default()
        };
        assert_eq!(totals(&processes), expected);
        assert_eq!(processes.archived_counters(), expected);
        // Nobody has mapped anything, so all frames are in unknown code: two stacks, of one frame and of two.
        let groups = remains(&processes, &roster).filter(|(process, _)| process.merged > 0);
        let mut stacks: Vec<(usize, u64)> = groups.map(|(_, site)| (site.frames.len(), site.stacks)).collect();
        stacks.sort_unstable();
        let (few, many) = (merged[0].merged.min(merged[1].merged), merged[0].merged.max(merged[1].merged));
        assert_eq!(stacks, [(1, few), (1, many), (2, few), (2, many)]);
    }

    #[test]
    fn what_one_life_lacks_of_a_stack_is_said_of_the_merged_one() {
        let mut processes = processes(0, GROUPS_BUDGET);
        for (pid, stack_state) in [(1, StackState::Whole), (2, StackState::Unsure), (3, StackState::Whole)] {
            live_and_die(&mut processes, NOBODY + pid, "short", vec![DeadSite { stack_state, ..site(&[1, 2]) }]);
        }
        let roster = processes.roster();
        let states: Vec<_> = remains(&processes, &roster).map(|(_, site)| (site.stacks, site.stack_state)).collect();
        assert_eq!(states, [(3, StackState::Unsure)]);
    }

    #[test]
    fn memory_is_bounded_whatever_names_and_stacks_come_by() {
        let mut processes = processes(10 * LIFE_BYTES, 20 * LIFE_BYTES);
        for pid in 0..2000 {
            let frames: Vec<u64> = (0..=u64::from(pid) % 100).collect();
            live_and_die(&mut processes, NOBODY + pid, &format!("name-{pid}"), vec![site(&frames)]);
        }
        let roster = processes.roster();
        assert!(roster.processes.len() < 40, "{}", roster.processes.len());
        assert!(remains(&processes, &roster).count() < 100);
        assert_eq!(totals(&processes).alloc_count, 4000);
        assert_eq!(roster.processes.iter().map(|process| process.merged.max(1)).sum::<u64>(), 2000);
        // What has no stack any more is said.
        let frameless = remains(&processes, &roster).filter(|(_, site)| site.frames.is_empty());
        let frameless: u64 = frameless.map(|(_, site)| site.counters.alloc_count).sum();
        assert!(frameless > 0);
        assert_eq!(processes.merged().without_stack, frameless);
        assert_eq!(processes.by_pid.values().map(Vec::len).sum::<usize>(), processes.archive.order.len());
    }

    #[test]
    fn what_the_user_has_named_is_never_merged() {
        let mut processes = processes(0, GROUPS_BUDGET);
        let process = Process { tgid: NOBODY, seen_ns: 1, ..Process::default() };
        processes.began(7, &process);
        processes.name(Pid(NOBODY));
        processes.put_into_archive(7, &process, vec![site(&[1])]);
        let roster = processes.roster();
        assert_eq!(roster.processes.len(), 1);
        assert_eq!((roster.processes[0].pid, roster.processes[0].merged), (Pid(NOBODY), 0));
        assert_eq!(totals(&processes).alloc_count, 2);
    }
}
