//! Which functions are probed in their middle, where one trap sees a whole call.
//!
//! [`site::once`] proves it of a function's own code; here what else may enter the function is looked for.

use std::ops::RangeInclusive;

use super::outside;
use super::survey::Candidate;
use crate::probes::image::Image;
use crate::probes::site::{self, Emulation, Point, Proven, Unproven};

/// As much code as is looked at from one address.
const PIECE: usize = site::LONGEST_INSTRUCTION;

/// A probe in the middle of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedPoint {
    /// Where in the function, and what it sees.
    pub point: Point,
    /// Its place in the file, in bytes.
    pub offset: u64,
}

/// For each candidate its probes, or why it has none. `calls_another` are left out: the calls in them would be counted too.
pub(super) fn of(
    image: &Image<'_>,
    candidates: &[Candidate],
    emulation: Emulation,
) -> Vec<Result<Vec<PlannedPoint>, Unproven>> {
    let code = |address| image.code(address, PIECE);
    let prove = |candidate: &Candidate| {
        if candidate.calls_another {
            return Err(Unproven::CallsAnother);
        }
        site::once(&candidate.function(image), candidate.known.signature, emulation, &code)
    };
    let mut proven: Vec<Result<Proven, Unproven>> = candidates.iter().map(prove).collect();
    let mut ranges: Vec<(usize, RangeInclusive<u64>)> = Vec::new();
    for (index, _) in proven.iter().enumerate().filter(|(_, proven)| proven.is_ok()) {
        let extent = candidates[index].extent;
        ranges.push((index, extent.address + 1..=extent.address + extent.size - 1));
    }
    let searched: Vec<_> = ranges.iter().map(|(_, range)| range.clone()).collect();
    let is_known = |end| proven.iter().flatten().any(|proven| proven.ends.contains(&end));
    let entered = outside::entered(image, &searched, is_known);
    for ((index, _), _) in ranges.iter().zip(entered).filter(|(_, entered)| entered.is_some()) {
        proven[*index] = Err(Unproven::EnteredElsewhere);
    }
    let planned = proven.into_iter().zip(candidates).map(|(proven, candidate)| {
        let place = |point: Point| {
            let offset = image.file_offset(candidate.extent.address + u64::from(point.offset));
            offset.map(|offset| PlannedPoint { point, offset }).ok_or(Unproven::Unreadable)
        };
        proven?.points.into_iter().map(place).collect()
    });
    planned.collect()
}
