//! Valgrind's format: blocks in braces, of which those for memcheck's leaks count. Blocks for other errors and other tools are
//! legal, and skipped.

use std::sync::Arc;

use super::lines::{Malformed, TextLine};
use super::pattern::Pattern;
use super::rule::{Line, Part, Rule, Stacks};
use crate::model::{self, Kinds, Reachability};

pub fn parse(lines: &[TextLine<'_>], source: &str) -> Result<Vec<Rule>, Malformed> {
    let mut rules = Vec::new();
    let mut rest = lines;
    while let Some((first, behind)) = rest.split_first() {
        match first.text {
            "{" => {}
            text if text.starts_with("leak:") => {
                return first
                    .wrong("a line of LeakSanitizer's among Valgrind's blocks; give each format a file of its own");
            }
            _ => return first.wrong(format!("`{}` stands outside of braces; begin a block with {{", first.shown())),
        }
        let Some(end) = behind.iter().position(|line| line.text == "}") else {
            return first.wrong("this block has no end; close it with }");
        };
        let (block, after) = behind.split_at(end);
        rules.extend(rule(*first, block, source)?);
        rest = after.get(1..).unwrap_or_default();
    }
    Ok(rules)
}

/// The rule of a block without its braces; `None` if it is for something else.
fn rule(begin: TextLine<'_>, block: &[TextLine<'_>], source: &str) -> Result<Option<Rule>, Malformed> {
    let [name, what, lines @ ..] = block else {
        return begin.wrong("this block is not whole; it needs a name, a line such as Memcheck:Leak, and frames");
    };
    let Some((tools, error)) = what.text.split_once(':') else {
        return what.wrong(format!("`{}` names no tool and error; write Memcheck:Leak", what.shown()));
    };
    if error.trim() != "Leak" || !tools.split(',').any(|tool| tool.trim() == "Memcheck") {
        return Ok(None);
    }
    let (kinds, lines) = match lines.split_first() {
        Some((first, rest)) => match first.text.strip_prefix("match-leak-kinds:") {
            Some(words) => (kinds(*first, words)?, rest),
            None => (Kinds::ALL, lines),
        },
        None => (Kinds::ALL, lines),
    };
    let frames = lines.iter().map(|line| frame(*line)).collect::<Result<Vec<_>, _>>()?;
    if frames.iter().all(|frame| *frame == Line::Frames) {
        return begin.wrong("this block names no frame and would hide everything; add a line such as fun:NAME");
    }
    let known = Arc::new(model::Rule { name: name.text.to_owned(), source: source.to_owned() });
    Ok(Some(Rule { known, kinds, stacks: Stacks::BeginningWith(frames) }))
}

fn kinds(line: TextLine<'_>, words: &str) -> Result<Kinds, Malformed> {
    let mut kinds = Vec::new();
    for word in words.split(',').map(str::trim) {
        match word {
            // What is probably lost is that definitely, or at least indirectly, as far as was seen.
            "definite" => kinds.extend([Reachability::DefinitelyLost, Reachability::ProbablyLost]),
            "indirect" => kinds.push(Reachability::IndirectlyLost),
            "possible" => kinds.push(Reachability::PossiblyLost),
            "reachable" => kinds.push(Reachability::StillReachable),
            // What nothing is known of has no word of its own.
            "all" => kinds.extend(Reachability::ALL),
            "none" => {}
            _ => {
                return line.wrong(format!(
                    "`{}` is no kind of leak; write definite, indirect, possible, reachable, or all",
                    crate::clean::elide(word, 60)
                ));
            }
        }
    }
    let kinds = Kinds::from(kinds);
    // Whoever writes all words that Valgrind has means everything.
    let missing = Kinds::ALL.without(kinds);
    Ok(if missing == Kinds::from([Reachability::Undecided]) { Kinds::ALL } else { kinds })
}

fn frame(line: TextLine<'_>) -> Result<Line, Malformed> {
    if line.text == "..." {
        return Ok(Line::Frames);
    }
    let (part, pattern) = match line.text.split_once(':') {
        Some(("fun", pattern)) => (Part::Function, pattern),
        Some(("obj", pattern)) => (Part::Object, pattern),
        Some(("src", pattern)) => (Part::Source, pattern),
        _ => {
            return line.wrong(format!("`{}` is no frame; write fun:, obj:, src: or ...", line.shown()));
        }
    };
    if pattern.trim().is_empty() {
        return line.wrong(format!("`{}` has no pattern; write * for any", line.shown()));
    }
    Ok(Line::Frame(part, Pattern::of_valgrind(pattern.trim())))
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn rules(text: &str) -> Vec<Rule> {
        parse(text.as_bytes(), "test").unwrap()
    }

    fn message(text: &str) -> String {
        parse(text.as_bytes(), "test").unwrap_err().to_string()
    }

    #[test]
    fn blocks_of_other_tools_and_errors_are_skipped() {
        let text = "{\n a\n Memcheck:Cond\n fun:f\n}\n{\n b\n Helgrind:Race\n anything at all\n}\n\
            {\n c\n Memcheck:Param\n write(buf)\n obj:*\n}\n{\n d\n Memcheck,Addrcheck:Leak\n fun:malloc\n}\n";
        let names: Vec<_> = rules(text).iter().map(|rule| rule.known.name.clone()).collect();
        assert_eq!(names, ["d"]);
    }

    #[test]
    fn kinds_are_those_named_or_all() {
        let kinds = |line: &str| rules(&format!("{{\n a\n Memcheck:Leak\n {line}\n fun:f\n}}"))[0].kinds;
        assert_eq!(kinds(""), Kinds::ALL);
        assert_eq!(kinds("match-leak-kinds: all"), Kinds::ALL);
        assert_eq!(kinds("match-leak-kinds: definite,indirect,possible,reachable"), Kinds::ALL);
        assert_eq!(kinds("match-leak-kinds: definite, indirect"), Kinds::LOST);
        assert_eq!(kinds("match-leak-kinds:reachable"), Kinds::from([Reachability::StillReachable]));
        assert_eq!(
            message("{\n a\n Memcheck:Leak\n match-leak-kinds: some\n fun:f\n}"),
            "line 4: `some` is no kind of leak; write definite, indirect, possible, reachable, or all"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        assert_eq!(message("{\n a\n Memcheck:Leak\n fun:f\n"), "line 1: this block has no end; close it with }");
        assert_eq!(
            message("{\n}\n"),
            "line 1: this block is not whole; it needs a name, a line such as Memcheck:Leak, and frames"
        );
        assert_eq!(message("{\n a\n leak\n}"), "line 3: `leak` names no tool and error; write Memcheck:Leak");
        assert_eq!(
            message("{\n a\n Memcheck:Leak\n malloc\n}"),
            "line 4: `malloc` is no frame; write fun:, obj:, src: or ..."
        );
        assert_eq!(message("{\n a\n Memcheck:Leak\n fun:\n}"), "line 4: `fun:` has no pattern; write * for any");
        assert_eq!(
            message("{\n a\n Memcheck:Leak\n ...\n}"),
            "line 1: this block names no frame and would hide everything; add a line such as fun:NAME"
        );
        assert_eq!(
            message("{\n a\n Memcheck:Leak\n fun:f\n}\nfun:g\n"),
            "line 6: `fun:g` stands outside of braces; begin a block with {"
        );
    }
}
