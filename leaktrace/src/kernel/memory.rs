//! Checks that there is memory for the tables before the kernel allocates them.
//!
//! In: the sizes of the tables. Out: one line that names the option to lower. The kernel allocates a table as a whole, and
//! where memory is short it first reclaims from all other processes.

use anyhow::{Result, bail};
use leaktrace_common::abi::{Block, FRAMES_PER_CHUNK, Site};
use leaktrace_common::table::{self, Bucket};
use leaktrace_common::wide::WideBlock;

use crate::host::memory;
use crate::model::Options;

/// How many elements the larger tables have.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    /// Buckets of blocks' keys.
    pub block_buckets: u32,
    /// Blocks.
    pub blocks: u32,
    /// Buckets of the keys of blocks at wide addresses, with a record for each place.
    pub wide_buckets: u32,
    /// Buckets of sites' keys.
    pub site_buckets: u32,
    /// Sites.
    pub sites: u32,
    /// Buckets of the keys of deep stacks' outer frames.
    pub frame_buckets: u32,
    /// Chunks of frames: one for each site, and one for each place of those keys.
    pub frames: u32,
}

/// How many frames the stacks may have on average so that all of them find room, if so many are wanted at all.
const AVERAGE_DEPTH: u32 = 128;

/// How many chunks of frames to make room for beside those that every site has for its innermost frames. Never fewer than the
/// deepest few stacks take.
pub fn outer_chunks(max_stacks: u32, max_depth: u32) -> u32 {
    let outer = |depth: u32| depth.div_ceil(FRAMES_PER_CHUNK as u32).saturating_sub(1);
    max_stacks.saturating_mul(outer(max_depth.min(AVERAGE_DEPTH))).max(8 * outer(max_depth))
}

/// Buckets of the table of blocks at addresses that the block table has no keys for.
pub fn wide_buckets(max_allocs: u32) -> u32 {
    table::dense_buckets_for(Options::wide_allocs(u64::from(max_allocs)) as u32)
}

/// What to say where the kernel itself finds no memory for a table.
pub const LACKING: &str = "no memory for the tables; raise the limit of the control group (the container) that leaktrace runs in, or \
                           lower --max-stacks and --max-allocs";

impl Tables {
    /// Bytes that blocks take.
    fn for_blocks(self) -> u64 {
        bytes::<Bucket>(self.block_buckets)
            + bytes::<Block>(self.blocks)
            + bytes::<Bucket>(self.wide_buckets)
            + bytes::<WideBlock>(table::positions(self.wide_buckets))
    }

    /// Bytes that stacks and their accounts take.
    fn for_stacks(self) -> u64 {
        bytes::<Bucket>(self.site_buckets)
            + bytes::<Site>(self.sites)
            + bytes::<Bucket>(self.frame_buckets)
            + bytes::<[u64; FRAMES_PER_CHUNK]>(self.frames)
    }

    /// Fails if so much memory is not available now. Where the kernel does not say how much is, its own allocation decides.
    pub fn check(self) -> Result<()> {
        match memory::available() {
            Some(available) => self.fit(available),
            None => Ok(()),
        }
    }

    fn fit(self, available: u64) -> Result<()> {
        let (blocks, stacks) = (self.for_blocks(), self.for_stacks());
        if blocks + stacks <= available {
            return Ok(());
        }
        let (what, option, needed) =
            if blocks > stacks { ("blocks", "--max-allocs", blocks) } else { ("stacks", "--max-stacks", stacks) };
        bail!(
            "the tables take {} MiB of memory, {} of it for {what}, and {} are available; lower {option}",
            (blocks + stacks) >> 20,
            needed >> 20,
            available >> 20
        )
    }
}

fn bytes<T>(elements: u32) -> u64 {
    u64::from(elements) * size_of::<T>() as u64
}

#[cfg(test)]
mod tests {
    use leaktrace_common::table;

    use super::{Tables, outer_chunks, wide_buckets};

    const GIB: u64 = 1 << 30;

    fn tables(max_allocs: u32, max_stacks: u32) -> Tables {
        let (block_buckets, site_buckets) = (table::buckets_for(max_allocs), table::buckets_for(max_stacks));
        let frame_buckets = table::dense_buckets_for(outer_chunks(max_stacks, 256));
        let (blocks, sites) = (table::positions(block_buckets), table::positions(site_buckets));
        let frames = sites + table::positions(frame_buckets);
        let wide_buckets = wide_buckets(max_allocs);
        Tables { block_buckets, blocks, wide_buckets, site_buckets, sites, frame_buckets, frames }
    }

    #[test]
    fn stacks_that_no_site_has_room_for_have_it_elsewhere() {
        assert_eq!(outer_chunks(1000, 32), 0);
        assert_eq!(outer_chunks(1000, 33), 1000);
        assert_eq!([128, 256, 1024].map(|depth| outer_chunks(1000, depth)), [3000; 3]);
        // 1,024 frames in chunks of 32, one of which its site has.
        assert_eq!(outer_chunks(1, 1024), 8 * 31);
    }

    #[test]
    fn what_is_documented_fits_into_what_it_is_said_to_take() {
        // The help says 48 bytes for each block: 44, and a sixteenth of the 58 that one at a wide address takes. Stacks, at 4 of
        // 7 places: 16 of keys, 112 of accounts, 448 of innermost frames; at 5 of 7: three times 13 of keys and 358 of outer
        // frames.
        assert!(tables(1_000_000, 16).fit(48_000_000).is_ok());
        assert!(tables(1_000_000, 16).fit(47_000_000).is_err());
        assert!(tables(16, 16_384).fit(16_384 * 1_700).is_ok());
        assert!(tables(16, 16_384).fit(16_384 * 1_685).is_err());
    }

    #[test]
    fn the_option_that_asks_for_most_is_named_with_what_it_takes() {
        let error = tables(1_000_000_000, 16_384).fit(20 * GIB).unwrap_err().to_string();
        // 250,000,000 buckets and a few of 64 bytes, and 7 blocks of 16 for each: 44.0 GB; and 12,500,000 of wide addresses
        // with 7 records of 32 each: 3.6.
        assert!(error.contains(", 45394 of it for blocks"), "{error}");
        assert!(error.contains("20480 are available; lower --max-allocs"), "{error}");
        let error = tables(1_000_000, 100_000_000).fit(20 * GIB).unwrap_err().to_string();
        assert!(error.ends_with("lower --max-stacks"), "{error}");
    }
}
