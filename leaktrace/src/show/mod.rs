//! What a person watches while a trace runs. As the reports, it sees the model and nothing of the running system.

mod status_line;

pub use status_line::StatusLine;
