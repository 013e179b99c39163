//! Damages to text: lines that are missing, doubled or in another order, numbers that are extreme, words where they do not
//! belong.

use super::Mutator;
use std::ops::Range;

pub fn damage(mutator: &mut Mutator<'_>, input: &mut Vec<u8>, words: &[&str]) {
    match mutator.random.below(8) {
        0 => {
            let line = line(mutator, input);
            input.drain(line);
        }
        1..3 => {
            // A line again, somewhere else.
            let line = line(mutator, input);
            let again = input[line].repeat(1 + mutator.random.below(4));
            let to = self::line(mutator, input).start;
            input.splice(to..to, again);
        }
        3 => {
            let word = mutator.random.pick(words).bytes();
            let at = mutator.random.below(input.len() + 1);
            input.splice(at..at, word);
        }
        _ => {
            if let Some(range) = digits(mutator, input) {
                let text = number(mutator, &input[range.clone()]);
                input.splice(range, text.into_bytes());
            }
        }
    }
}

/// A line with its newline.
fn line(mutator: &mut Mutator<'_>, input: &[u8]) -> Range<usize> {
    let at = mutator.random.below(input.len());
    let start = input[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    let end = input[at..].iter().position(|&byte| byte == b'\n').map_or(input.len(), |newline| at + newline + 1);
    start..end
}

/// Digits from some place on.
pub fn digits(mutator: &mut Mutator<'_>, input: &[u8]) -> Option<Range<usize>> {
    let from = mutator.random.below(input.len());
    let start = from + input[from..].iter().position(u8::is_ascii_digit)?;
    let end = input[start..].iter().position(|byte| !byte.is_ascii_hexdigit()).map_or(input.len(), |end| start + end);
    Some(start..end)
}

/// Another number than these digits say, in the same base if that can be seen.
pub fn number(mutator: &mut Mutator<'_>, digits: &[u8]) -> String {
    let text = String::from_utf8_lossy(digits);
    let is_decimal = digits.iter().all(u8::is_ascii_digit) && mutator.random.once_in(2);
    let old = u64::from_str_radix(&text, if is_decimal { 10 } else { 16 }).unwrap_or_default();
    let new = mutator.number(old);
    match mutator.random.below(16) {
        0 => format!("-{new}"),
        1 => format!("{new}{new}"),
        _ if is_decimal => new.to_string(),
        _ => format!("{new:x}"),
    }
}
