//! Processes that were seen and whose allocations were not, or not all.

use serde::{Deserialize, Serialize};

use super::Pid;

/// A process that was seen but is not in the numbers, or only in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untraced {
    /// The process.
    pub pid: Pid,
    /// The kernel's short name of it.
    #[serde(default)]
    pub comm: String,
    /// Why nothing of it was recorded, or not all: half a sentence.
    #[serde(default)]
    pub reason: String,
    /// Whether its allocations are in the numbers except for the part that the reason names; absent for no.
    #[serde(default, skip_serializing_if = "is_false")]
    pub partly: bool,
    /// How many further processes with that name and reason this entry stands for; absent for none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
}

impl Untraced {
    /// Whether a process of this name was recorded in part only.
    pub fn tells_a_part_of(&self, comm: &str) -> bool {
        self.partly && self.comm == comm
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
