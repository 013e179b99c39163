//! How old and how large the outstanding blocks of a site are.

use std::time::Duration;

use leaktrace_common::sampling::{BYTES_SHIFT, COUNT_SHIFT};
use serde::{Deserialize, Serialize};

use super::verdict::Tally;
use crate::model::sampling::whole;

/// Where the classes of ages begin, seconds.
const AGES: [u64; 7] = [0, 1, 10, 60, 600, 3600, 86_400];

/// Blocks of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// Where it begins; it ends where the next class does, whether that has any blocks or not. Seconds of ages: 0, 1, 10, 60, 600,
    /// 3,600, 86,400. Bytes of sizes: 0 and the powers of two.
    pub from: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many they are.
    pub count: u64,
}

/// Classes that have blocks, the first ones first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(pub Vec<Class>);

impl Histogram {
    /// Whether it has no blocks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds blocks of this age.
    pub(super) fn add_age(&mut self, age: Duration, blocks: Tally) {
        let class = AGES.partition_point(|from| *from <= age.as_secs()).saturating_sub(1);
        self.add(AGES[class], blocks);
    }

    /// Adds blocks of this size.
    pub(super) fn add_size(&mut self, size: u64, blocks: Tally) {
        self.add(size.checked_ilog2().map_or(0, |log| 1 << log), blocks);
    }

    fn add(&mut self, from: u64, Tally { bytes, count }: Tally) {
        match self.0.binary_search_by_key(&from, |class| class.from) {
            Ok(place) => {
                let class = &mut self.0[place];
                class.bytes = class.bytes.saturating_add(bytes);
                class.count = class.count.saturating_add(count);
            }
            Err(place) => self.0.insert(place, Class { from, bytes, count }),
        }
    }

    /// Adds the blocks of another.
    pub(super) fn join(&mut self, other: &Self) {
        for Class { from, bytes, count } in &other.0 {
            self.add(*from, Tally { bytes: *bytes, count: *count });
        }
    }

    /// The same in whole bytes and allocations, of amounts in the units of [`Counters`](super::Counters).
    #[must_use]
    pub(super) fn whole(mut self) -> Self {
        for class in &mut self.0 {
            (class.bytes, class.count) = (whole(class.bytes, BYTES_SHIFT), whole(class.count, COUNT_SHIFT));
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_by_powers_of_two_and_by_units_of_time() {
        let (mut ages, mut sizes) = (Histogram::default(), Histogram::default());
        for (age, size) in [(0, 0), (59, 1), (60, 64), (61, 127), (100_000, 128)] {
            ages.add_age(Duration::from_secs(age), Tally { bytes: size, count: 1 });
            sizes.add_size(size, Tally { bytes: size, count: 1 });
        }
        let of = |histogram: &Histogram| {
            histogram.0.iter().map(|class| (class.from, class.bytes, class.count)).collect::<Vec<_>>()
        };
        assert_eq!(of(&ages), [(0, 0, 1), (10, 1, 1), (60, 191, 2), (86_400, 128, 1)]);
        assert_eq!(of(&sizes), [(0, 0, 1), (1, 1, 1), (64, 191, 2), (128, 128, 1)]);
        let before = of(&sizes);
        sizes.join(&sizes.clone());
        assert_eq!(
            of(&sizes),
            before.iter().map(|(from, bytes, count)| (*from, 2 * bytes, 2 * count)).collect::<Vec<_>>()
        );
    }
}
