//! A life that is judged.

use crate::model::Pid;

/// A life that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// The process.
    pub pid: Pid,
    /// Its slot.
    pub slot: u32,
    /// When it was first seen, which tells it from others in that slot.
    pub first_seen: u64,
    /// Every block that it has was recorded, if none was lost.
    pub since_start: bool,
}

/// Why there is no verdict on one that is gone.
pub const ENDED: &str = "it ended before it could be stopped";
