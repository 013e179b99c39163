//! What the environment asks of the sampler.
//!
//! In: the values of `LEAKTRACE_SAMPLER_INTERVAL` (bytes; k, m or g behind it multiply) and `LEAKTRACE_SAMPLER_RATE` (samples per
//! second; 0 is no limit). Out: [`Limits`]. What cannot be read is as if it were not there, and said in the state.

use crate::pace::Limits;
use crate::sampling::MAX_SAMPLE_BYTES;

/// So small that a leak of a kilobyte a second is seen within minutes: the rate raises it in programs that allocate more than 3 MiB a
/// second. tcmalloc, jemalloc and Go's runtime have 512 KiB, which they keep.
pub const DEFAULT_INTERVAL: u64 = 16 << 10;
/// Samples per second.
pub const DEFAULT_RATE: u64 = 200;
/// More than so many samples in a second nobody takes in.
const MOST_RATE: u64 = 1_000_000;

/// The limits that these two values ask for, and whether both could be read.
#[must_use]
pub fn limits(interval: Option<&[u8]>, rate: Option<&[u8]>) -> (Limits, bool) {
    let read = |value: Option<&[u8]>, default: u64, most: u64| match value {
        None => (default, true),
        Some(text) => number(text).filter(|number| *number <= most).map_or((default, false), |number| (number, true)),
    };
    let (interval, interval_is_read) = read(interval, DEFAULT_INTERVAL, MAX_SAMPLE_BYTES);
    let (rate, rate_is_read) = read(rate, DEFAULT_RATE, MOST_RATE);
    (Limits { floor: interval.max(1), rate }, interval_is_read && rate_is_read)
}

/// A number with an optional k, m or g.
fn number(text: &[u8]) -> Option<u64> {
    let (digits, shift) = match text {
        [digits @ .., b'k' | b'K'] => (digits, 10),
        [digits @ .., b'm' | b'M'] => (digits, 20),
        [digits @ .., b'g' | b'G'] => (digits, 30),
        digits => (digits, 0),
    };
    if digits.is_empty() {
        return None;
    }
    let mut number = 0u64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    number.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_bad_ones_said() {
        let of = |interval: &str, rate: &str| {
            let (limits, is_read) = limits(Some(interval.as_bytes()), Some(rate.as_bytes()));
            (limits.floor, limits.rate, is_read)
        };
        assert_eq!(limits(None, None), (Limits { floor: 16 << 10, rate: 200 }, true));
        assert_eq!(of("64k", "50"), (64 << 10, 50, true));
        assert_eq!(of("1", "0"), (1, 0, true));
        assert_eq!(of("0", "0"), (1, 0, true));
        assert_eq!(of("2M", "1k"), (2 << 20, 1024, true));
        assert_eq!(of("64G", "200"), (64 << 30, 200, true));
        for bad in ["", "k", "-1", "1.5m", "65g", "99999999999999999999", "18446744073709551615k"] {
            assert_eq!(of(bad, "7"), (16 << 10, 7, false), "{bad}");
        }
        assert_eq!(of("8k", "many"), (8 << 10, 200, false));
    }
}
