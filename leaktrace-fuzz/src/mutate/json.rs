//! Damages to JSON that leave it JSON: a value becomes another, is missing or is there many times.

use super::{Mutator, lines};
use std::ops::Range;

/// Values that readers may not expect.
const VALUES: [&str; 22] = [
    "null",
    "true",
    "0",
    "-1",
    "-0.0",
    "1.5",
    "1e-320",
    "1e19",
    "1.7e308",
    "1e999",
    "18446744073709551615",
    "18446744073709551616",
    "9223372036854775808",
    "18446744073709549568.0",
    "[]",
    "{}",
    "\"\"",
    "\"0xffffffffffffffff\"",
    "\"\\ud800\"",
    "\"\\u001b[2J\\u202e\"",
    "\"9999-12-31T23:59:59.999999999Z\"",
    "[18446744073709551615,18446744073709551615]",
];

pub fn damage(mutator: &mut Mutator<'_>, input: &mut Vec<u8>, words: &[&str]) {
    let Some(value) = value(mutator, input) else { return mutator.any_bytes(input) };
    match mutator.random.below(8) {
        0 => {
            let text = *mutator.random.pick(&VALUES);
            input.splice(value, text.bytes());
        }
        1 => {
            // One value in another's place.
            if let Some(other) = self::value(mutator, input) {
                let text = input[other].to_vec();
                input.splice(value, text);
            }
        }
        2 => {
            // Several of it, as in an array.
            let mut text = input[value.clone()].to_vec();
            text.push(b',');
            let text = text.repeat(1 + mutator.random.below(8));
            input.splice(value.start..value.start, text);
        }
        3 => {
            // Without it and the comma behind it.
            let comma = input.get(value.end) == Some(&b',');
            input.drain(value.start..value.end + usize::from(comma));
        }
        4 => {
            // A member that may be there already.
            let (word, text) = (*mutator.random.pick(words), *mutator.random.pick(&VALUES));
            if input.get(value.start) == Some(&b'{') {
                let at = value.start + 1;
                let comma = if input.get(at) == Some(&b'}') { "" } else { "," };
                input.splice(at..at, format!("\"{word}\":{text}{comma}").into_bytes());
            } else {
                input.splice(value, format!("\"{word}\"").into_bytes());
            }
        }
        _ => {
            if let Some(range) = lines::digits(mutator, input) {
                let text = lines::number(mutator, &input[range.clone()]);
                input.splice(range, text.into_bytes());
            }
        }
    }
}

/// Some value: what follows a `:`, `,` or `[`, up to where it ends.
fn value(mutator: &mut Mutator<'_>, input: &[u8]) -> Option<Range<usize>> {
    let from = mutator.random.below(input.len());
    let before = from + input[from..].iter().position(|byte| b":,[".contains(byte))?;
    let start = before + 1 + input[before + 1..].iter().position(|byte| !byte.is_ascii_whitespace())?;
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, &byte) in input.iter().enumerate().skip(start) {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' | b',' if depth == 0 => return Some(start..at),
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}
