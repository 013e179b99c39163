//! What alerts have said, for the reports: each report has what is new since the one before, the last has everything.
//!
//! Bounded: a trace may go on for months, and everything on a machine may raise alerts in it.

use std::time::Duration;

use super::commands::About;

/// Lines that are kept, at most.
const LINES: usize = 50;

/// What a line is about; of each there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Alert(About),
    /// That its command has failed.
    Failure(About),
}

struct Line {
    subject: Subject,
    text: String,
    at: Duration,
    times: u32,
    is_new: bool,
}

/// The lines.
#[derive(Default)]
pub(super) struct Said {
    lines: Vec<Line>,
    /// How many more there were.
    left_out: u64,
    /// Of these, since the last report.
    left_out_since: u64,
}

impl Said {
    /// Adds what was said at a time since the trace began, in the place of what was said of the same before.
    pub(super) fn add(&mut self, subject: Subject, text: String, at: Duration) {
        if let Some(line) = self.lines.iter_mut().find(|line| line.subject == subject) {
            *line = Line { text, at, times: line.times + 1, is_new: true, subject };
        } else if self.lines.len() < LINES {
            self.lines.push(Line { subject, text, at, times: 1, is_new: true });
        } else {
            self.left_out += 1;
            self.left_out_since += 1;
        }
    }

    /// What a report says.
    pub(super) fn for_report(&mut self, is_final: bool) -> Vec<String> {
        let mut texts = Vec::new();
        for line in &mut self.lines {
            if std::mem::take(&mut line.is_new) || is_final {
                let often = if line.times > 1 { format!(", {} times by then", line.times) } else { String::new() };
                texts.push(format!("{} ({} s into the trace{often})", line.text, line.at.as_secs()));
            }
        }
        let since = std::mem::take(&mut self.left_out_since);
        let left_out = if is_final { self.left_out } else { since };
        if left_out > 0 {
            texts.push(format!("{left_out} more warnings of alerts are not listed"));
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::super::course::Kind;
    use super::*;
    use crate::model::Pid;

    #[test]
    fn a_report_has_what_is_new_and_the_last_has_all_of_it() {
        let mut said = Said::default();
        let (one, other) = ((Pid(1), Kind::Bytes), (Pid(1), Kind::Rate));
        let second = Duration::from_secs;
        said.add(Subject::Alert(one), "one".to_owned(), second(1));
        assert_eq!(said.for_report(false), ["one (1 s into the trace)"]);
        said.add(Subject::Alert(other), "other".to_owned(), second(2));
        said.add(Subject::Failure(other), "failed".to_owned(), second(2));
        assert_eq!(said.for_report(false), ["other (2 s into the trace)", "failed (2 s into the trace)"]);
        assert_eq!(said.for_report(false), [""; 0]);
        said.add(Subject::Alert(one), "more".to_owned(), second(301));
        assert_eq!(said.for_report(false), ["more (301 s into the trace, 2 times by then)"]);
        assert_eq!(said.for_report(true).len(), 3);
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let mut said = Said::default();
        for pid in 0..100 {
            said.add(Subject::Alert((Pid(pid), Kind::Bytes)), "much".to_owned(), Duration::ZERO);
        }
        let lines = said.for_report(false);
        assert_eq!(lines.len(), LINES + 1);
        assert!(lines[LINES].starts_with("50 more warnings of alerts"), "{}", lines[LINES]);
        assert_eq!(said.for_report(false), [""; 0]);
        assert_eq!(said.for_report(true).len(), LINES + 1);
    }
}
