//! One need of tracing, and how it is shown.

use std::fmt;

/// A need that was looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// What is needed.
    pub what: &'static str,
    /// Whether it is there.
    pub verdict: Verdict,
    /// Without it there is no tracing at all.
    pub required: bool,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where there is nothing to do.
    pub next: String,
}

/// Whether a need is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is.
    Ok,
    /// It is not.
    Missing,
    /// It cannot be told.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        })
    }
}

/// `verdict  what: found; next step`.
impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<7}  {}: {}", self.verdict, self.what, self.found)?;
        if self.next.is_empty() { Ok(()) } else { write!(f, "; {}", self.next) }
    }
}

impl Need {
    /// A need with everything given.
    fn of(what: &'static str, verdict: Verdict, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what, verdict, required: false, found: found.into(), next: next.into() }
    }

    /// It is met.
    pub fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self::of(what, Verdict::Ok, found, "")
    }

    /// It is not met.
    pub fn missing(what: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::of(what, Verdict::Missing, found, next)
    }

    /// It cannot be told.
    pub fn unknown(what: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self::of(what, Verdict::Unknown, found, next)
    }

    /// The same, without which there is no tracing.
    pub fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// Whether tracing cannot work for want of it.
    #[must_use]
    pub fn is_in_the_way(&self) -> bool {
        self.required && self.verdict == Verdict::Missing
    }
}
