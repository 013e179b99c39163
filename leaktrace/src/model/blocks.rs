//! The outstanding blocks, summed per site while they are read, so that ten million of them need not be held.
//!
//! In: blocks as a stream, each with its site and age. Out: for each site its outstanding bytes and count, the ages of its
//! blocks and, if the blocks are a sample, the spread of the estimate.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use leaktrace_common::sampling::COUNT_SHIFT;

use super::estimate::Spread;
use super::growth::Window;
use super::histogram::Histogram;
use super::request::Options;
use super::snapshot::Block;
use super::types::Address;
use super::verdict::{Reachability, Tally, Verdict};
use crate::model::sampling::Weights;

/// One outstanding block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawBlock {
    /// Index into the capture's `sites`.
    pub site: usize,
    /// Where it lies in the process.
    pub address: Address,
    /// Bytes asked for.
    pub size: u64,
    /// The bytes that it stands for where its program has drawn it for a sample; `None` for as many as it has.
    pub weight: Option<NonZeroU64>,
    /// Time since it was allocated.
    pub age: Duration,
    /// When it was allocated, by a clock that serves to tell it from another block at its address only.
    pub time: u32,
    /// The program wants no leak reported of it.
    pub ignored: bool,
    /// What the leak check found of it; `None` where none ran.
    pub kind: Option<Reachability>,
}

/// Outstanding blocks summed per site while they are read; the blocks themselves are kept only on request.
#[derive(Debug, Default)]
pub struct BlockTally {
    pub(super) sites: Vec<SiteTally>,
    pub(super) keeps_blocks: bool,
    older_than: Duration,
    weights: Option<Weights>,
}

/// The outstanding blocks of one site.
#[derive(Debug, Clone, Default)]
pub struct SiteTally {
    /// In the units of [`Counters`](super::Counters).
    pub(super) bytes: u64,
    /// In the units of [`Counters`](super::Counters).
    pub(super) count: u64,
    /// How many blocks were recorded for that.
    pub(super) recorded: u64,
    /// The spread of the sampled blocks.
    pub(super) spread: Spread,
    pub(super) oldest: Option<Duration>,
    pub(super) youngest: Option<Duration>,
    /// In the units of [`Counters`](super::Counters).
    pub(super) ages: Histogram,
    /// In the units of [`Counters`](super::Counters).
    pub(super) sizes: Histogram,
    pub(super) verdict: Option<Verdict>,
    /// Those that the program wants no leak reported of, in the units of [`Counters`](super::Counters).
    pub(super) ignored: Tally,
    /// The window of its process, if its blocks are to be told by the epochs of their birth.
    window: Option<Arc<Window>>,
    /// Those of each epoch of the window; no more elements than there were blocks for.
    survivors: Vec<Tally>,
    pub(super) blocks: Vec<Block>,
}

impl BlockTally {
    /// Reads `blocks` once, leaving out those younger than `options.older_than` and keeping each of the others when
    /// `options.show_allocs`. `sites` is the number of sites; a block of any other site (one that appeared after the
    /// sites had been read) is left out.
    pub fn read(sites: usize, options: &Options, blocks: impl IntoIterator<Item = RawBlock>) -> Self {
        let mut tally = Self::new(sites, options);
        tally.extend(blocks);
        tally
    }

    /// A tally without any block yet.
    pub fn new(sites: usize, options: &Options) -> Self {
        Self {
            sites: vec![SiteTally::default(); sites],
            keeps_blocks: options.show_allocs,
            older_than: options.older_than,
            weights: Weights::of_trace(options),
        }
    }

    /// Makes room for so many blocks of a site, if blocks are kept: growing by doubling takes three times the memory.
    pub fn reserve(&mut self, site: usize, blocks: usize) {
        if self.keeps_blocks
            && let Some(site) = self.sites.get_mut(site)
        {
            site.blocks.reserve_exact(blocks);
        }
    }

    /// Has the blocks of a site told by the epochs of a window in which they were born.
    pub fn tell_by_epoch(&mut self, site: usize, window: &Arc<Window>) {
        if let Some(site) = self.sites.get_mut(site) {
            site.window = Some(Arc::clone(window));
        }
    }

    /// The blocks of each epoch of a site, of which those at the end may be missing for want of any.
    #[must_use]
    pub fn survivors(&self, site: usize) -> &[Tally] {
        self.sites.get(site).map_or(&[], |site| &site.survivors)
    }

    /// How many blocks each recorded one of a site stands for on average; `None` where none was recorded, or each stands for itself.
    #[must_use]
    pub fn blocks_per_sample(&self, site: usize) -> Option<f64> {
        let tally = self.sites.get(site).filter(|tally| tally.recorded > 0 && self.weights.is_some())?;
        Some(tally.count as f64 / f64::from(1 << COUNT_SHIFT) / tally.recorded as f64)
    }

    /// What the leak check found of a site; `None` where none ran.
    #[must_use]
    pub fn verdict(&self, site: usize) -> Option<&Verdict> {
        self.sites.get(site)?.verdict.as_ref()
    }

    /// The sites' tallies, in the order of the sites: to be kept after the blocks themselves are dropped.
    #[must_use]
    pub fn into_sites(self) -> Vec<SiteTally> {
        self.sites
    }

    /// The blocks that are kept, each with the index of its site.
    pub fn kept_mut(&mut self) -> impl Iterator<Item = (usize, &mut Block)> {
        self.sites
            .iter_mut()
            .enumerate()
            .flat_map(|(index, site)| site.blocks.iter_mut().map(move |block| (index, block)))
    }

    /// Adds one more site behind those that were read.
    pub fn append(&mut self, site: SiteTally) {
        self.sites.push(site);
    }
}

impl Extend<RawBlock> for BlockTally {
    fn extend<I: IntoIterator<Item = RawBlock>>(&mut self, blocks: I) {
        for block in blocks {
            let Some(site) = self.sites.get_mut(block.site) else { continue };
            let (bytes, count) =
                self.weights.as_ref().map_or((block.size, 1), |weights| weights.of(block.size, block.weight));
            if let Some(epoch) = site.window.as_ref().and_then(|window| window.epoch_of(block.age)) {
                if site.survivors.len() <= epoch {
                    site.survivors.resize(epoch + 1, Tally::default());
                }
                site.survivors[epoch].join(Tally { bytes, count });
            }
            if block.age < self.older_than {
                continue;
            }
            site.bytes = site.bytes.saturating_add(bytes);
            site.count = site.count.saturating_add(count);
            site.recorded += 1;
            if self.weights.is_some() {
                site.spread.add(block.size, bytes);
            }
            site.oldest = site.oldest.max(Some(block.age));
            site.youngest = Some(site.youngest.map_or(block.age, |youngest| youngest.min(block.age)));
            site.ages.add_age(block.age, Tally { bytes, count });
            site.sizes.add_size(block.size, Tally { bytes, count });
            if block.ignored {
                site.ignored.join(Tally { bytes, count });
            }
            if let Some(kind) = block.kind {
                site.verdict.get_or_insert_default().add(kind, block.size);
            }
            if self.keeps_blocks {
                let RawBlock { address, size, weight, age, kind, ignored, .. } = block;
                site.blocks.push(Block { address, size, weight, age, verdict: kind, ignored, type_name: None });
            }
        }
    }
}

impl SiteTally {
    /// How many blocks are kept one by one.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.blocks.len()
    }

    /// Adds the blocks of another tally to the sums, and drops the kept blocks of both.
    pub fn absorb(&mut self, mut other: Self) {
        self.blocks.clear();
        other.blocks.clear();
        self.merge(other);
        self.blocks.shrink_to_fit();
    }

    /// Adds the blocks of another tally to the sums, and keeps those that it keeps.
    pub fn join(&mut self, other: Self) {
        self.merge(other);
    }

    /// Adds the blocks of another site's tally.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.count = self.count.saturating_add(other.count);
        self.recorded = self.recorded.saturating_add(other.recorded);
        self.spread.merge(&other.spread);
        self.oldest = self.oldest.max(other.oldest);
        self.youngest = [self.youngest, other.youngest].into_iter().flatten().min();
        if let Some(other) = &other.verdict {
            self.verdict.get_or_insert_default().join(other);
        }
        self.ages.join(&other.ages);
        self.sizes.join(&other.sizes);
        self.ignored.join(other.ignored);
        self.blocks.append(&mut other.blocks);
    }
}
