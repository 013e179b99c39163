//! Through which blocks each reachable block is held, summed: many blocks of a site are held in the same way.
//!
//! In: the graph of blocks, the words that reach it, the site of each block. Out: [`Trails`]. A trail is a word and the sites of
//! the blocks behind it, as a program's author would tell it: "the variable `cache` holds a session, which holds buffers". Blocks
//! of one site that follow each other, as in a list, are one step; so is a cycle of sites, as in a tree of two kinds of nodes.
//!
//! Each block has the shortest trail to it from a word that lasts, or from one that passes if no lasting one reaches it.

use std::collections::HashMap;

use super::graph::{Graph, NONE, Sources};

/// Most sites on a trail. Of longer ones the middle is left out.
const DEEPEST: u32 = 8;
/// Most trails that are told apart. Blocks beyond them are in none.
const MOST: usize = 1 << 18;
/// The trail of blocks for which there was no room.
const UNTOLD: u32 = NONE - 1;

/// How the blocks of a process are held.
#[derive(Debug, Default)]
pub struct Trails {
    /// Each is the last step of a trail.
    steps: Vec<Last>,
}

/// The last step of a trail, and the blocks that the trail leads to.
#[derive(Debug, Clone, Copy)]
struct Last {
    /// The step before; [`NONE`] for the first one behind a word.
    before: u32,
    word: u32,
    site: u32,
    depth: u32,
    /// Steps between this one and the one before are left out.
    is_cut: bool,
    step: Step,
    blocks: u64,
    bytes: u64,
}

/// Blocks of one site on a trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Their site; [`NONE`] where it is not known.
    pub site: u32,
    /// How many of them follow each other at most.
    pub longest: u32,
    /// Blocks of this site come back behind those of other sites.
    pub recurs: bool,
    /// Sites before it are left out.
    pub is_cut: bool,
}

/// One way in which blocks of a site are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trail {
    /// The number of the word.
    pub word: u32,
    /// The sites of the blocks in between, the word's first; at last the site itself, if its own blocks hold each other.
    pub steps: Vec<Step>,
    /// How many blocks are held so.
    pub blocks: u64,
    /// Their sizes' sum.
    pub bytes: u64,
}

impl Trails {
    /// Finds the trail of every block; `sites` has each block's.
    #[must_use]
    pub fn find(graph: Graph<'_>, sources: &Sources, sites: &[u32]) -> Self {
        let mut search = Search {
            trails: Self::default(),
            known: HashMap::new(),
            trail_of: vec![NONE; graph.len()],
            run_of: vec![0; graph.len()],
            pending: Vec::new(),
        };
        let site_of = |block: u32| sites.get(block as usize).copied().unwrap_or(NONE);
        let mut next = 0;
        for stage in sources.stages() {
            for source in stage {
                if search.trail_of[source.block as usize] == NONE {
                    let step = search.place(NONE, source.word, site_of(source.block), false);
                    search.reach(graph, source.block, step, 1);
                }
            }
            while let Some(&block) = search.pending.get(next) {
                next += 1;
                for to in graph.next(block) {
                    if search.trail_of[to as usize] == NONE {
                        let (step, run) = search.behind(block, site_of(to));
                        search.reach(graph, to, step, run);
                    }
                }
            }
        }
        search.trails
    }

    /// By site, the trails that lead to most of its bytes, no more than `most` for each.
    #[must_use]
    pub fn of_sites(&self, most: usize) -> HashMap<u32, Vec<Trail>> {
        let mut of_sites: HashMap<u32, Vec<u32>> = HashMap::new();
        for (number, last) in self.steps.iter().enumerate().filter(|(_, last)| last.blocks > 0 && last.site != NONE) {
            of_sites.entry(last.site).or_default().push(number as u32);
        }
        let largest = |mut numbers: Vec<u32>| {
            let key = |number: &u32| {
                let last = &self.steps[*number as usize];
                (std::cmp::Reverse((last.bytes, last.blocks)), *number)
            };
            numbers.sort_unstable_by_key(key);
            numbers.truncate(most);
            numbers.into_iter().map(|number| self.trail(number)).collect()
        };
        of_sites.into_iter().map(|(site, numbers)| (site, largest(numbers))).collect()
    }

    fn trail(&self, number: u32) -> Trail {
        let last = &self.steps[number as usize];
        let is_own = last.step.longest > 1 || last.step.recurs;
        let mut steps = Vec::new();
        let mut at = number;
        while let Some(step) = self.steps.get(at as usize) {
            if at != number || is_own {
                steps.push(Step { is_cut: step.is_cut, ..step.step });
            } else if step.is_cut {
                // What is left out lies before the block itself.
                steps.push(Step { site: NONE, longest: 0, recurs: false, is_cut: true });
            }
            at = step.before;
        }
        steps.reverse();
        Trail { word: last.word, steps, blocks: last.blocks, bytes: last.bytes }
    }
}

/// The search for trails, from near blocks to far ones.
struct Search {
    trails: Trails,
    /// By the step before or the word, and site.
    known: HashMap<(u32, u32, u32, bool), u32>,
    /// For each block the last step of its trail.
    trail_of: Vec<u32>,
    /// For each block how many of its site follow each other up to it.
    run_of: Vec<u32>,
    pending: Vec<u32>,
}

impl Search {
    fn reach(&mut self, graph: Graph<'_>, block: u32, step: u32, run: u32) {
        self.trail_of[block as usize] = step;
        self.run_of[block as usize] = run;
        self.pending.push(block);
        if let Some(last) = self.trails.steps.get_mut(step as usize) {
            last.blocks += 1;
            last.bytes = last.bytes.saturating_add(graph.size(block));
            last.step.longest = last.step.longest.max(run);
        }
    }

    /// The step that a block of this site is, held by `holder`, and its place among blocks of the site that follow each other.
    fn behind(&mut self, holder: u32, site: u32) -> (u32, u32) {
        let from = self.trail_of[holder as usize];
        let Some(&last) = self.trails.steps.get(from as usize) else { return (UNTOLD, 1) };
        if last.site == site {
            return (from, self.run_of[holder as usize].saturating_add(1));
        }
        let mut at = last.before;
        while let Some(step) = self.trails.steps.get_mut(at as usize) {
            if step.site == site {
                step.step.recurs = true;
                return (at, 1);
            }
            at = step.before;
        }
        let is_cut = last.depth >= DEEPEST;
        (self.place(if is_cut { last.before } else { from }, last.word, site, is_cut), 1)
    }

    /// The step of this site behind another one or, if that is [`NONE`], behind a word.
    fn place(&mut self, before: u32, word: u32, site: u32, is_cut: bool) -> u32 {
        let next = self.trails.steps.len();
        if let Some(known) = self.known.get(&(before, word, site, is_cut)) {
            return *known;
        }
        if next == MOST {
            return UNTOLD;
        }
        let depth = self.trails.steps.get(before as usize).map_or(1, |before| before.depth + 1);
        let step = Step { site, longest: 0, recurs: false, is_cut };
        self.trails.steps.push(Last { before, word, site, depth, is_cut, step, blocks: 0, bytes: 0 });
        self.known.insert((before, word, site, is_cut), next as u32);
        next as u32
    }
}
