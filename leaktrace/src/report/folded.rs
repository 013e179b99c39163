//! Folded stacks, `comm-pid;outermost;...;innermost bytes`, as flame graph tools read them.
//!
//! Losses are comment lines at the top, which start with `# ` and which those tools skip; without losses there are none.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::Arc;

use super::estimates;
use super::notices::notices;
use super::{Measure, names, suppressed};
use crate::model::{Frame, Only, Site, Snapshot};

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
    if snapshot.options.only == Some(Only::Lost) {
        writeln!(out, "# only what is definitely or indirectly lost")?;
    }
    if snapshot.options.only == Some(Only::Growing) {
        writeln!(out, "# only sites that keep growing")?;
    }
    for line in suppressed::lines(snapshot) {
        writeln!(out, "# {line}")?;
    }
    for (stack, bytes) in stacks(snapshot, Measure::Bytes, true) {
        writeln!(out, "{stack} {bytes}")?;
    }
    Ok(())
}

/// Folded stacks and what is outstanding there and not hidden by suppressions. Sites whose frames have the same names share one.
pub(super) fn stacks(snapshot: &Snapshot, measure: Measure, with_process: bool) -> BTreeMap<String, u64> {
    let mut stacks = BTreeMap::new();
    let mut escaped = Escaped::default();
    for site in &snapshot.sites {
        let shown = site.shown();
        let value = match measure {
            Measure::Bytes => shown.bytes,
            Measure::Count => shown.count,
        };
        if value > 0 {
            let sum: &mut u64 = stacks.entry(stack(snapshot, site, with_process, &mut escaped)).or_default();
            *sum = sum.saturating_add(value);
        }
    }
    stacks
}

/// The names of frames, each computed once: a frame may be in all stacks of its program.
#[derive(Default)]
pub(super) struct Escaped(HashMap<*const Frame, String>);

impl Escaped {
    pub fn name(&mut self, frame: &Arc<Frame>) -> &str {
        self.0.entry(Arc::as_ptr(frame)).or_insert_with(|| escape(&names::function(frame)))
    }
}

fn stack(snapshot: &Snapshot, site: &Site, with_process: bool, escaped: &mut Escaped) -> String {
    let process = with_process.then(|| names::process(snapshot, site));
    line(process.as_deref(), site, escaped)
}

/// A site's stack, outermost first, below a frame for its process if that is given.
pub(super) fn line(process: Option<&str>, site: &Site, escaped: &mut Escaped) -> String {
    let mut stack = String::new();
    let mut add = |name: &str| {
        if !stack.is_empty() {
            stack.push(';');
        }
        stack.push_str(name);
    };
    if let Some(process) = process {
        add(&escape(process));
    }
    if site.stack.is_empty() {
        add(names::NO_STACK);
    }
    for frame in site.stack.iter().rev() {
        add(escaped.name(frame));
    }
    // Tools take a line that starts with '#' for a comment, and a process' name may start with it.
    if stack.starts_with('#') { stack.replacen('#', "_", 1) } else { stack }
}

/// A name without characters that have a meaning in this format: `;` separates frames, and a last word of digits would be
/// read as the line's number (there may be two, for differential flame graphs).
pub(super) fn escape(name: &str) -> String {
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
