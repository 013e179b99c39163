//! Everything that talks to the kernel: BPF programs and maps, probes, processes. aya and tokio live here and nowhere
//! else.
//!
//! In: a [`Config`]. Out: a [`Snapshot`] at each interval and an [`Outcome`] at the end.

mod attach;
mod attacher;
#[doc(hidden)]
pub mod bpf;
mod btf;
mod candidate;
mod capture;
mod discovery;
mod drain;
mod facts;
pub(crate) mod features;
mod fields;
mod kernel;
pub mod launch;
mod layers;
mod life;
mod limits;
mod mapping;
mod memory;
mod mmap_records;
mod naming;
mod pidfd;
mod planner;
mod probe;
mod prober;
mod processes;
mod programs;
mod progress;
mod reclaim;
mod remarks;
mod sampling;
mod seccomp;
mod selection;
mod signals;
mod trace;
mod unwinding;
mod waiting;

use std::ops::ControlFlow;

use anyhow::{Context, Result};

pub(crate) use kernel::version as kernel_version;

use crate::config::Config;
use crate::model::Snapshot;
use crate::outcome::Outcome;

/// Traces what `config` says, calls `report` at each interval until it breaks, and hands back the last report
/// undelivered.
///
/// # Errors
/// One line each that names what stands in the way and the next step.
pub fn run(config: &Config, report: &mut (dyn FnMut(&Snapshot) -> ControlFlow<()> + Send)) -> Result<Outcome> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(trace::run(config, report))
}
