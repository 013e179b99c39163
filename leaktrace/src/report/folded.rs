//! Folded stacks, `comm-pid;outermost;...;innermost bytes`, as flame graph tools read them.
//!
//! Losses stand in comment lines on top, which start with `# ` and which those tools skip; without losses there are none.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::estimates;
use super::notices::notices;
use super::{Measure, names};
use crate::model::{Site, Snapshot};

/// Writes one line for each distinct stack with outstanding bytes, in the order of the names.
///
/// # Errors
/// What `out` reports.
pub fn write(snapshot: &Snapshot, out: &mut dyn Write) -> io::Result<()> {
    if let Some(note) = estimates::note(snapshot) {
        let bytes = estimates::bytes(snapshot.totals().bytes, snapshot.sampled, snapshot.outstanding_bytes_ci95);
        writeln!(out, "# {note}: {bytes} in all")?;
    }
    for notice in notices(snapshot) {
        writeln!(out, "# warning: {}", notice.line())?;
    }
    for (stack, bytes) in stacks(snapshot, Measure::Bytes, true) {
        writeln!(out, "{stack} {bytes}")?;
    }
    Ok(())
}

/// Folded stacks and what is outstanding there. Sites whose frames have the same names share one.
pub(super) fn stacks(snapshot: &Snapshot, measure: Measure, with_process: bool) -> BTreeMap<String, u64> {
    let mut stacks = BTreeMap::new();
    for site in &snapshot.sites {
        let value = match measure {
            Measure::Bytes => site.outstanding_bytes,
            Measure::Count => site.outstanding_count,
        };
        if value > 0 {
            let sum: &mut u64 = stacks.entry(stack(snapshot, site, with_process)).or_default();
            *sum = sum.saturating_add(value);
        }
    }
    stacks
}

fn stack(snapshot: &Snapshot, site: &Site, with_process: bool) -> String {
    let mut names = Vec::with_capacity(site.stack.len() + 1);
    if with_process {
        names.push(escape(&names::process(snapshot, site)));
    }
    if site.stack.is_empty() {
        names.push(names::NO_STACK.to_owned());
    }
    names.extend(site.stack.iter().rev().map(|frame| escape(&names::function(frame))));
    let stack = names.join(";");
    // A line that starts with '#' is a comment to its readers, and a process may be called so.
    if stack.starts_with('#') { stack.replacen('#', "_", 1) } else { stack }
}

/// A name without what has a meaning in this format: `;` parts frames, and a last word of digits would be read as a
/// number of the line (there may be two, for differential flame graphs).
fn escape(name: &str) -> String {
    let mut name = name.trim().replace(';', ":");
    if let Some((head, last)) = name.rsplit_once(' ')
        && last.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        name = format!("{head}_{last}");
    }
    if name.is_empty() { "?".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_the_line() {
        assert_eq!(escape("<[u8; 8] as Foo>::bar"), "<[u8: 8] as Foo>::bar");
        assert_eq!(escape("lambda 12"), "lambda_12");
        assert_eq!(escape("operator new(unsigned long)"), "operator new(unsigned long)");
        assert_eq!(escape(" x "), "x");
        assert_eq!(escape(" "), "?");
    }
}
