//! The display for a person while a trace runs. Like the reports, it sees only the model and nothing of the running system.

mod status_line;

pub use status_line::StatusLine;
