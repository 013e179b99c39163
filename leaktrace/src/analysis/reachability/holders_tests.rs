//! Who holds what, on memory that is an array of words.

use super::tests::{Process, at};
use super::*;
use crate::model::Tally;

/// What is found of a process whose roots are these: for each stage the words, each of a variable of its own.
struct Found {
    blocks: Blocks,
    scan: Scan,
    judgement: Judgement,
    sources: Sources,
}

/// Numbers of blocks to which the words of each variable point: those of lasting variables, then those of passing ones.
fn find(process: &Process, lasting: &[&[u32]], passing: &[&[u32]]) -> Found {
    let (blocks, scan) = process.scan(1);
    let judgement = judge(&blocks, &scan, Heuristics::ALL, &|_| false);
    let sources = |variables: &[&[u32]], first: usize| -> Vec<Source> {
        let of = |(number, blocks): (usize, &&[u32])| {
            let variable = (first + number) as u32;
            let source = move |block: &u32| Source { variable, word: variable, block: *block };
            blocks.iter().map(source).collect::<Vec<_>>()
        };
        variables.iter().enumerate().flat_map(of).collect()
    };
    let sources = Sources::new(sources(lasting, 0), sources(passing, lasting.len()));
    Found { blocks, scan, judgement, sources }
}

/// A trail: word, sites with how many of them follow each other, blocks.
type Told = (u32, Vec<(u32, u32)>, u64);

impl Found {
    fn graph(&self) -> Graph<'_> {
        Graph::new(&self.blocks, &self.scan, &self.judgement)
    }

    /// How the blocks of a site are held, given each block's site.
    fn trails(&self, sites: &[u32], site: u32) -> Vec<Told> {
        let of_sites = Trails::find(self.graph(), &self.sources, sites).of_sites(5);
        let told = |trail: &Trail| {
            let steps = trail.steps.iter().map(|step| (step.site, step.longest)).collect();
            (trail.word, steps, trail.blocks)
        };
        of_sites.get(&site).map(|trails| trails.iter().map(told).collect()).unwrap_or_default()
    }

    fn retained(&self) -> Vec<u64> {
        retained(self.graph(), &self.sources, |_| true).iter().map(|tally: &Tally| tally.count).collect()
    }
}

#[test]
fn a_block_is_held_by_its_root_and_the_blocks_between() {
    // Variable -> 0 -> 1 -> 2, of three sites.
    let process = Process::with(&[[at(1), 0, 0], [0, at(2), 0], [0; 3], [0; 3]], &[at(0)]);
    let found = find(&process, &[&[0]], &[]);
    let sites = [10, 11, 12, 12];
    assert_eq!(found.trails(&sites, 10), [(0, vec![], 1)]);
    assert_eq!(found.trails(&sites, 11), [(0, vec![(10, 1)], 1)]);
    assert_eq!(found.trails(&sites, 12), [(0, vec![(10, 1), (11, 1)], 1)], "the lost one has no holder");
    assert_eq!(found.retained(), [3]);
}

#[test]
fn a_list_is_one_step() {
    let nodes: Vec<[u64; 3]> = (1..=1000).map(|next| [if next < 1000 { at(next) } else { at(1000) }, 0, 0]).collect();
    let process = Process::with(&[nodes.as_slice(), &[[0; 3]]].concat(), &[at(0)]);
    let found = find(&process, &[&[0]], &[]);
    let sites = [vec![7; 1000], vec![8]].concat();
    assert_eq!(found.trails(&sites, 7), [(0, vec![(7, 1000)], 1000)]);
    assert_eq!(found.trails(&sites, 8), [(0, vec![(7, 1000)], 1)]);
    assert_eq!(found.retained(), [1001]);
}

#[test]
fn a_cycle_of_sites_is_told_once() {
    // Objects and arrays by turns: 0 -> 1 -> 2 -> 3.
    let process = Process::with(&[[at(1), 0, 0], [at(2), 0, 0], [at(3), 0, 0], [0; 3]], &[at(0)]);
    let found = find(&process, &[&[0]], &[]);
    let sites = [5, 6, 5, 6];
    assert_eq!(found.trails(&sites, 6), [(0, vec![(5, 1)], 2)]);
    let of_sites = Trails::find(found.graph(), &found.sources, &sites).of_sites(5);
    let own: Vec<_> = of_sites[&5].iter().flat_map(|trail| trail.steps.clone()).collect();
    assert_eq!(own, [Step { site: 5, longest: 1, recurs: true, is_cut: false }]);
}

#[test]
fn long_trails_are_cut_in_the_middle_and_keep_their_ends() {
    let chain: Vec<[u64; 3]> = (1..=40).map(|next| [if next < 40 { at(next) } else { 0 }, 0, 0]).collect();
    let found = find(&Process::with(&chain, &[at(0)]), &[&[0]], &[]);
    let sites: Vec<u32> = (0..40).collect();
    let of_sites = Trails::find(found.graph(), &found.sources, &sites).of_sites(5);
    let last = &of_sites[&39][0];
    assert!(last.steps.len() <= 9 && last.steps.iter().any(|step| step.is_cut), "{last:?}");
    assert_eq!((last.steps[0].site, last.blocks), (0, 1));
}

#[test]
fn of_a_sites_ways_the_largest_are_told_first() {
    let found = find(&Process::with(&[[0; 3]; 4], &[at(0), at(1), at(2), at(3)]), &[&[0], &[1, 2, 3]], &[]);
    assert_eq!(found.trails(&[4; 4], 4), [(1, vec![], 3), (0, vec![], 1)]);
}

#[test]
fn what_lasts_is_told_before_what_passes() {
    // Both a stack and a variable lead to block 1; the stack alone leads to block 2, which points into what the variable has.
    let process = Process::with(&[[at(1), 0, 0], [0; 3], [at(1), 0, 0]], &[at(0), at(1), at(2)]);
    let found = find(&process, &[&[0]], &[&[1, 2]]);
    let sites = [1, 2, 3];
    assert_eq!(found.trails(&sites, 2), [(0, vec![(1, 1)], 1)]);
    assert_eq!(found.trails(&sites, 3), [(1, vec![], 1)]);
    assert_eq!(found.retained(), [2, 1]);
}

#[test]
fn what_two_variables_lead_to_goes_with_neither() {
    let process = Process::with(&[[at(2), 0, 0], [at(2), 0, 0], [at(3), 0, 0], [0; 3]], &[at(0), at(1)]);
    assert_eq!(find(&process, &[&[0], &[1]], &[]).retained(), [1, 1]);
    assert_eq!(find(&process, &[&[0, 1]], &[]).retained(), [4], "unless they are one");
}

#[test]
fn a_list_whose_nodes_point_to_its_owner_takes_no_quadratic_time() {
    // 200,000 nodes: each points to the next one and to the owner, which has the first.
    let nodes = 200_000;
    let owner = [at(1), 0, 0];
    let node = |number| [if number < nodes { at(number + 1) } else { 0 }, at(0), 0];
    let blocks: Vec<[u64; 3]> = std::iter::once(owner).chain((1..=nodes).map(node)).collect();
    let found = find(&Process::with(&blocks, &[at(0), at(nodes)]), &[&[0]], &[&[nodes as u32]]);
    assert_eq!(found.retained(), [nodes + 1, 0]);
}

proptest::proptest! {
    #[test]
    fn what_a_variable_retains_cannot_be_reached_without_it(
        words in proptest::collection::vec((0usize..24, 0usize..24), 0..60),
        variables in proptest::collection::vec(proptest::collection::vec(0u32..24, 1..4), 1..5),
    ) {
        let mut blocks = vec![[0; 3]; 24];
        for (number, (from, to)) in words.iter().enumerate() {
            blocks[*from][number % 3] = at(*to as u64);
        }
        let roots: Vec<u64> = variables.iter().flatten().map(|block| at(u64::from(*block))).collect();
        let lists: Vec<&[u32]> = variables.iter().map(Vec::as_slice).collect();
        let found = find(&Process::with(&blocks, &roots), &lists, &[]);
        let reachable = |without: Option<usize>| {
            let others = variables.iter().enumerate().filter(|(number, _)| Some(*number) != without);
            let mut pending: Vec<u32> = others.flat_map(|(_, blocks)| blocks.iter().copied()).collect();
            let mut seen = std::collections::BTreeSet::new();
            while let Some(block) = pending.pop() {
                if seen.insert(block) {
                    let next = blocks[block as usize].iter().filter(|word| **word != 0);
                    pending.extend(next.map(|word| ((word - at(0)) / 32) as u32));
                }
            }
            seen.len() as u64
        };
        let expected: Vec<u64> =
            (0..variables.len()).map(|variable| reachable(None) - reachable(Some(variable))).collect();
        proptest::prop_assert_eq!(found.retained(), expected);
    }
}
