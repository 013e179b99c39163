//! Folded stacks with two numbers, `program;outermost;...;innermost before after`, as inferno-diff-folded writes them and flame
//! graph tools read them.
//!
//! What makes the comparison doubtful are comment lines at the top, which start with `# `.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::doubts::doubts;
use super::words;
use crate::clean::clean;
use crate::model::{Change, Diff, Pair};
use crate::report::Measure;
use crate::report::folded::{Escaped, line};

/// Writes one line for each distinct stack, in the order of the names; also for those that are unchanged.
///
/// # Errors
/// What `out` reports.
pub fn write(diff: &Diff, out: &mut dyn Write) -> io::Result<()> {
    for doubt in doubts(diff) {
        writeln!(out, "# warning: {doubt}")?;
    }
    if let Some(line) = words::suppressed(diff) {
        writeln!(out, "# {line}")?;
    }
    for (stack, Pair { before, after }) in stacks(diff, Measure::Bytes, true) {
        writeln!(out, "{stack} {before} {after}")?;
    }
    Ok(())
}

/// Folded stacks and what is outstanding there, but for what suppressions hide and what one snapshot does not list. Matched sites
/// have one stack for both, whatever names the other snapshot had for it.
pub fn stacks(diff: &Diff, measure: Measure, with_program: bool) -> BTreeMap<String, Pair<u64>> {
    let mut stacks: BTreeMap<String, Pair<u64>> = BTreeMap::new();
    let mut escaped = Escaped::default();
    for site in diff.sites.iter().filter(|site| !site.suppressed && site.change != Change::NotListed) {
        let Some((_, shown)) = diff.shown(site) else { continue };
        let name = diff.programs.get(site.program).map_or("", |program| program.current_name());
        let name = clean(if name.is_empty() { "?" } else { name });
        let sums = stacks.entry(line(with_program.then_some(&*name), shown, &mut escaped)).or_default();
        let values = site.amount.map(|amount| match measure {
            Measure::Bytes => amount.outstanding.bytes,
            Measure::Count => amount.outstanding.count,
        });
        sums.before = sums.before.saturating_add(values.before);
        sums.after = sums.after.saturating_add(values.after);
    }
    stacks
}
