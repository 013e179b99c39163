//! mimalloc 2: segments of at least 32 MiB that begin at multiples of that (`mi_segment_t` of mimalloc/types.h).
//!
//! In versions 2.0 to 2.2 the head of a segment differs in its beginning alone, so that the fields are known by each other.

use super::{Found, Holds, Pages, Space, WORD};

const SEGMENT: u64 = 32 << 20;
/// `MI_SEGMENT_SLICE_SIZE`.
const SLICE: u64 = 64 << 10;
const SLICES: u64 = SEGMENT / SLICE;
/// The most slices of a segment that a block has alone: 1 TiB.
const MOST_SLICES: u64 = 1 << 24;
/// Words at the head of a segment among which the fields are.
const HEAD: usize = 64;

/// What is needed of the head of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    /// Where the cookie is, in words.
    place: usize,
    /// What the cookie has from the process: it is that and the segment's address by exclusive or (`_mi_ptr_cookie`).
    secret: u64,
    slices: u64,
}

/// The head at this address. `place` says where the cookie is, if that is known.
fn head(segment: u64, place: Option<usize>, pages: &mut Pages<'_>) -> Option<Head> {
    let words: [u64; HEAD] = pages.words(segment)?;
    let places = place.map_or(8..HEAD - 5, |place| place..place + 1);
    let mut heads = places.filter_map(|place| {
        let [used, cookie, slices, information, kind, entries] = *words[place - 1..].first_chunk()?;
        let kind = kind as u32;
        let is_normal = kind == 0 && slices == SLICES && entries == SLICES;
        let is_huge = kind == 1 && slices <= MOST_SLICES && (1..=SLICES).contains(&entries);
        let has_information = (1..slices.min(SLICES)).contains(&information);
        let is_head = (is_normal || is_huge) && has_information && used <= SLICES && cookie != 0;
        is_head.then_some(Head { place, secret: cookie ^ segment, slices })
    });
    heads.next()
}

/// All segments of the mimalloc that knows this block.
pub(super) fn owned(space: &Space<'_>, block: u64) -> Option<Found> {
    let mut pages = Pages::of(space.memory);
    let own = head(block / SEGMENT * SEGMENT, None, &mut pages)?;
    let mut found = Found::default();
    for segment in space.multiples(SEGMENT) {
        if let Some(head) = head(segment, Some(own.place), &mut pages).filter(|head| head.secret == own.secret) {
            found.add(segment..segment.saturating_add(head.slices * SLICE), Holds::Blocks);
        }
    }
    Some(found)
}

const _: () = assert!(HEAD as u64 * WORD <= 4096, "within a page");
