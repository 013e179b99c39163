//! LeakSanitizer's format: a line `leak:PATTERN` for each rule.

use std::sync::Arc;

use super::lines::{Malformed, TextLine};
use super::pattern::Pattern;
use super::rule::{Rule, Stacks};
use crate::model::{self, Kinds, Reachability};

/// LeakSanitizer reports leaks only, so that its suppressions hide nothing else: what is still reachable stays in the list.
/// What it would take for reachable, a block of which only pointers into its middle were found, is called lost here.
const KINDS: [Reachability; 4] = [
    Reachability::DefinitelyLost,
    Reachability::IndirectlyLost,
    Reachability::ProbablyLost,
    Reachability::PossiblyLost,
];

pub fn parse(lines: &[TextLine<'_>], source: &str) -> Result<Vec<Rule>, Malformed> {
    lines.iter().map(|line| rule(*line, source)).collect()
}

fn rule(line: TextLine<'_>, source: &str) -> Result<Rule, Malformed> {
    if line.text == "{" {
        return line.wrong("a block of Valgrind's among LeakSanitizer's lines; give each format a file of its own");
    }
    let pattern = match line.text.split_once(':') {
        Some(("leak", "")) => return line.wrong("`leak:` has no pattern; write leak:FUNCTION, or leave the line out"),
        Some(("leak", pattern)) => pattern,
        _ => {
            return line.wrong(format!("`{}` is no suppression of LeakSanitizer's; write leak:PATTERN", line.shown()));
        }
    };
    Ok(Rule {
        known: Arc::new(model::Rule { name: line.text.to_owned(), source: source.to_owned() }),
        kinds: Kinds::from(KINDS),
        stacks: Stacks::Passing(Pattern::of_lsan(pattern)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;

    #[test]
    fn other_sanitizers_lines_are_not_understood() {
        let message = |text: &str| parse(text.as_bytes(), "test").unwrap_err().to_string();
        assert_eq!(
            message("leak:f\nrace:g\n"),
            "line 2: `race:g` is no suppression of LeakSanitizer's; write leak:PATTERN"
        );
        assert_eq!(message("leak:"), "line 1: `leak:` has no pattern; write leak:FUNCTION, or leave the line out");
    }

    #[test]
    fn a_pattern_may_hold_colons() {
        let rules = parse(b"leak:std::string::append", "test").unwrap();
        assert_eq!(rules[0].known.name, "leak:std::string::append");
    }
}
