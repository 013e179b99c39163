//! What would go if one variable went: the blocks to which every way from outside leads through it.
//!
//! That is what the variable's node dominates in the graph of blocks. Dominators are found by the algorithm of Lengauer and Tarjan
//! ("A Fast Algorithm for Finding Dominators in a Flowgraph", 1979) in its simple form, without recursion, in arrays of 32-bit
//! numbers: the iterative algorithms take quadratic time for a list whose nodes point to a common owner.
//!
//! Words that pass (see [`super::graph`]) count only for what no lasting word reaches: else nothing would be a cache's of which
//! some function just has a part in use.

use super::graph::{Graph, NONE, Source, Sources};
use crate::model::Tally;

/// What each variable alone holds of the blocks that count, by its number.
#[must_use]
pub fn retained(graph: Graph<'_>, sources: &Sources, counts: impl Fn(u32) -> bool) -> Vec<Tally> {
    let mut tree = Tree::grow(graph, sources);
    let dominators = tree.dominators(graph, sources);
    // The variable under which each node is; the number of a node is above that of its dominator.
    let mut top = dominators;
    let mut retained = vec![Tally::default(); sources.variables()];
    for number in 1..top.len() {
        let node = tree.nodes[number];
        if let Some(variable) = tree.variable(node) {
            top[number] = variable;
        } else {
            let dominator = top[number] as usize;
            top[number] = if dominator == 0 { NONE } else { top[dominator] };
            if let Some(sum) = retained.get_mut(top[number] as usize).filter(|_| counts(node)) {
                sum.add(graph.size(node));
            }
        }
    }
    retained
}

/// The nodes that can be reached, in the order of a depth-first search. Number 0 is the world: all variables are below it.
struct Tree {
    /// By number: a block, or a variable behind all blocks.
    nodes: Vec<u32>,
    /// By number: the node from which it was found.
    parents: Vec<u32>,
    /// By node: its number; [`NONE`] if it is not reached.
    numbers: Vec<u32>,
    /// From this number on nodes are reached from words that pass alone.
    passing: u32,
    blocks: u32,
}

impl Tree {
    fn grow(graph: Graph<'_>, sources: &Sources) -> Self {
        let blocks = graph.len() as u32;
        let count = graph.len() + sources.variables();
        let mut tree = Self { nodes: vec![NONE], parents: vec![0], numbers: vec![NONE; count], passing: NONE, blocks };
        let mut pending = Vec::new();
        for (number, stage) in sources.stages().into_iter().enumerate() {
            if number == 1 {
                tree.passing = tree.nodes.len() as u32;
            }
            for of_variable in stage.chunk_by(|a, b| a.variable == b.variable) {
                let variable = tree.add(blocks + of_variable[0].variable, 0);
                pending.extend(of_variable.iter().map(|source| (source.block, variable)));
                while let Some((block, from)) = pending.pop() {
                    if tree.numbers[block as usize] == NONE {
                        let number = tree.add(block, from);
                        let is_new = |to: &u32| tree.numbers[*to as usize] == NONE;
                        pending.extend(graph.next(block).filter(is_new).map(|to| (to, number)));
                    }
                }
            }
        }
        tree
    }

    fn add(&mut self, node: u32, parent: u32) -> u32 {
        let number = self.nodes.len() as u32;
        self.numbers[node as usize] = number;
        self.nodes.push(node);
        self.parents.push(parent);
        number
    }

    fn variable(&self, node: u32) -> Option<u32> {
        node.checked_sub(self.blocks)
    }

    /// Calls `found` with the numbers of both ends of each edge to a block.
    fn edges(&self, graph: Graph<'_>, sources: &Sources, mut found: impl FnMut(u32, u32)) {
        let stages = sources.stages();
        for number in 1..self.nodes.len() as u32 {
            let mut edge = |to: u32| {
                let to = self.numbers[to as usize];
                // What passes does not count for what lasting words reach.
                if number < self.passing || to >= self.passing {
                    found(number, to);
                }
            };
            let node = self.nodes[number as usize];
            match self.variable(node) {
                None => graph.next(node).for_each(edge),
                Some(variable) => {
                    let stage: &[Source] = stages[usize::from(number >= self.passing)];
                    stage[Sources::of(stage, variable)].iter().for_each(|source| edge(source.block));
                }
            }
        }
    }

    /// For each number that of its immediate dominator. Takes the parents away.
    fn dominators(&mut self, graph: Graph<'_>, sources: &Sources) -> Vec<u32> {
        let count = self.nodes.len();
        // The other ends of the edges to each number, one after another.
        let mut ends = vec![0u32; count + 1];
        self.edges(graph, sources, |_, to| ends[to as usize] += 1);
        let mut sum = 0;
        for end in &mut ends {
            sum += *end;
            *end = sum;
        }
        let mut before = vec![0u32; sum as usize];
        self.edges(graph, sources, |from, to| {
            ends[to as usize] -= 1;
            before[ends[to as usize] as usize] = from;
        });
        let begins = ends;

        let identity = || (0..count as u32).collect::<Vec<u32>>();
        let mut forest = Forest {
            ancestors: std::mem::take(&mut self.parents),
            semi: identity(),
            best: identity(),
            path: Vec::new(),
        };
        let mut dominators = vec![0; count];
        // Of each number, those whose semidominator it is, as a list.
        let (mut first, mut next) = (vec![NONE; count], vec![NONE; count]);
        for number in (1..count as u32).rev() {
            let at = number as usize;
            // It is not in the forest yet.
            let parent = forest.ancestors[at];
            if self.variable(self.nodes[at]).is_some() {
                forest.semi[at] = 0;
            }
            for &from in &before[begins[at] as usize..begins[at + 1] as usize] {
                let best = forest.best(from, number + 1);
                forest.semi[at] = forest.semi[at].min(forest.semi[best as usize]);
            }
            let semi = forest.semi[at] as usize;
            (next[at], first[semi]) = (first[semi], number);
            let mut below = std::mem::replace(&mut first[parent as usize], NONE);
            while below != NONE {
                let best = forest.best(below, number);
                let is_better = forest.semi[best as usize] < forest.semi[below as usize];
                dominators[below as usize] = if is_better { best } else { parent };
                below = next[below as usize];
            }
        }
        for number in 1..count {
            if dominators[number] != forest.semi[number] {
                dominators[number] = dominators[dominators[number] as usize];
            }
        }
        dominators
    }
}

/// The part of the tree whose numbers were gone through, from the last one down.
struct Forest {
    /// The parent, or one further up where the way was shortened.
    ancestors: Vec<u32>,
    /// The semidominator, as far as it is known.
    semi: Vec<u32>,
    /// On the way up to the ancestor, the node with the least semidominator.
    best: Vec<u32>,
    path: Vec<u32>,
}

impl Forest {
    /// The node with the least semidominator from `node` up to its root, where numbers from `first` on are in the forest.
    fn best(&mut self, node: u32, first: u32) -> u32 {
        if node < first {
            return node;
        }
        let mut at = node;
        while self.ancestors[at as usize] >= first {
            self.path.push(at);
            at = self.ancestors[at as usize];
        }
        while let Some(below) = self.path.pop() {
            let above = self.ancestors[below as usize];
            let (best, other) = (self.best[below as usize], self.best[above as usize]);
            if self.semi[other as usize] < self.semi[best as usize] {
                self.best[below as usize] = other;
            }
            self.ancestors[below as usize] = self.ancestors[above as usize];
        }
        self.best[node as usize]
    }
}
