//! Suppressions: rules by which users name leaks that are not to be reported, in the formats of LeakSanitizer and of Valgrind's
//! memcheck.
//!
//! In: the text of suppression files, and a snapshot with names. Out: marks at the snapshot's sites, and what each rule hid.
//! A file's text is a user's, and names come from traced programs: both may be anything. The time that matching takes is bounded
//! by the product of their lengths.

mod allocation_functions;
mod apply;
mod lines;
mod lsan;
mod matching;
mod parse;
mod pattern;
mod rule;
mod rules;
mod valgrind;

pub use apply::{Applied, RuleUse};
pub use lines::{MAX_BYTES, Malformed};
pub use rules::Rules;
