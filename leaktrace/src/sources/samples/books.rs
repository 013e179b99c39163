//! The books of leaktrace's own sampler, as they stand in the memory of a process: what it lost.
//!
//! In: addresses in processes. Out: [`Books`]. A process may write there what it likes.

use crate::host::patience::{self, About};
use crate::model::{Address, Pid};
use crate::process::memory::Reader;

/// What they begin with.
const MAGIC: [u8; 8] = *b"LEAKSMPL";
/// The version of the layout that is read here.
const VERSION: u32 = 1;
/// Bytes up to the last number that is read here: two words of head, and eleven numbers.
const LENGTH: usize = 13 * 8;

/// The environment asked for something that could not be read.
const BAD_ENVIRONMENT: u64 = 1;
/// The program has allocation functions that are called before the sampler's.
const NOT_IN_PLACE: u64 = 2;

/// What the sampler of a process says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Books {
    flags: u64,
    full: u64,
    full_bytes: u64,
    missed_frees: u64,
}

impl Books {
    /// Reads those of all these processes, each at its address, of which each may be missing or not as we know it. `None` if one of them
    /// holds up the reading.
    #[must_use]
    pub fn read(processes: Vec<(Pid, Address)>) -> Option<Vec<Option<Self>>> {
        let first = processes.first()?.0;
        let read = |(pid, address): (Pid, Address)| {
            let mut bytes = [0; LENGTH];
            Reader::open(pid).ok()?.read_exact(address, &mut bytes).ok()?;
            Self::parse(&bytes)
        };
        patience::answer(About::Process(first.0), move || Ok(processes.into_iter().map(read).collect())).ok()
    }

    fn parse(bytes: &[u8; LENGTH]) -> Option<Self> {
        let number = |place: usize| {
            let bytes = bytes.get(place * 8..place * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let head = number(1)?;
        let (version, size) = (head as u32, head >> 32);
        if bytes[..8] != MAGIC || version != VERSION || size < LENGTH as u64 {
            return None;
        }
        Some(Self { flags: number(2)?, full: number(10)?, full_bytes: number(11)?, missed_frees: number(12)? })
    }

    /// What makes numbers untrue or too small, a sentence each.
    pub fn warnings(self, whose: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.full > 0 {
            warnings.push(format!(
                "the sampler of {whose} had no room for {} allocations that stand for {} bytes: they are missing; set \
                 LEAKTRACE_SAMPLER_INTERVAL to a larger distance, such as 4m, when the program is started",
                self.full, self.full_bytes
            ));
        }
        if self.missed_frees > 0 {
            warnings.push(format!(
                "the sampler of {whose} did not see {} frees: blocks were freed by a function that it does not take the place of",
                self.missed_frees
            ));
        }
        if self.flags & NOT_IN_PLACE != 0 {
            warnings.push(format!(
                "{whose} has allocation functions of its own that are called before the sampler's: nothing of them is seen; trace it \
                 without the sampler, with --leak-check"
            ));
        }
        if self.flags & BAD_ENVIRONMENT != 0 {
            warnings.push(format!(
                "the sampler of {whose} cannot read LEAKTRACE_SAMPLER_INTERVAL or LEAKTRACE_SAMPLER_RATE, and does as if it was not \
                 set; write bytes, such as 64k, and samples in a second"
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(version: u32, numbers: [u64; 11]) -> [u8; LENGTH] {
        let mut bytes = Vec::from(MAGIC);
        bytes.extend(version.to_le_bytes());
        bytes.extend((LENGTH as u32 + 8).to_le_bytes());
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        bytes.try_into().unwrap()
    }

    #[test]
    fn books_of_another_layout_are_not_read() {
        let numbers = [0, 512 << 10, 200, 1 << 20, 7, 8, 100, 60, 3, 4096, 2];
        let books = Books::parse(&bytes(1, numbers)).unwrap();
        assert_eq!(books, Books { flags: 0, full: 3, full_bytes: 4096, missed_frees: 2 });
        assert_eq!(books.warnings("it").len(), 2);
        assert!(
            Books { flags: 3, full: 0, ..books }
                .warnings("it")
                .iter()
                .all(|line| line.contains("; ") || line.contains(": "))
        );
        assert_eq!(Books::parse(&bytes(2, numbers)), None);
        assert_eq!(Books::parse(&[0; LENGTH]), None);
    }
}
