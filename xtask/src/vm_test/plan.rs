//! What the host asks of the machine and what the machine answers: the plan is JSON in the initramfs, and each answer is a
//! line on the second serial port, between the lines that the programs write there themselves.
//!
//! Part of both `cargo xtask vm-test` and `vm-init`, so that they cannot disagree.

use serde::{Deserialize, Serialize};

/// Where the plan lies in the initramfs.
pub const PLAN: &str = "/plan.json";

/// What each answer begins with; JSON follows.
pub const MARK: &str = "vm-init: ";

/// What to run, in this order.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// Environment variables of all of them.
    pub environment: Vec<(String, String)>,
    /// The programs.
    pub runs: Vec<Run>,
}

/// One program.
#[derive(Serialize, Deserialize)]
pub struct Run {
    /// What it is called in reports.
    pub title: String,
    /// The program and its arguments.
    pub command: Vec<String>,
}

/// An answer.
#[derive(Serialize, Deserialize, Debug, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The machine is up, and this is its kernel (`uname -r`) and the number of its processors.
    Up { release: String, processors: usize },
    /// A program starts.
    Begin { title: String },
    /// It has ended: exit status, or 128 and the signal that killed it; or it could not be started.
    End { title: String, status: i32 },
    /// Nothing is left to do.
    Done,
}
