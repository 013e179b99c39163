//! Probes in place: uprobes and return probes on one file's allocation functions, and their removal.
//!
//! In: an open file and the probes to set in it. Out: links that hold them. The kernel removes every probe when its
//! link is closed, by whatever end of ours, so nothing is ever left in a target.

use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result};
use aya::programs::links::Link;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use leaktrace_common::abi;
use leaktrace_common::cookie::{self, Register};

use super::kernel::Kernel;
use crate::model::Pid;

/// One function of a file to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The function's name, for messages.
    pub function: String,
    /// One of the `FUNCTION_` constants of `leaktrace_common::abi`.
    pub kind: u32,
    /// Where the probe goes: an offset in the file, bytes.
    pub offset: u64,
    /// Where the arguments and the entry's stack pointer are there; `None` if in their standard places.
    pub placement: Option<u64>,
}

impl Probe {
    /// The program that serves it, and the cookie that tells the program what it needs to know.
    fn program(&self) -> (&'static str, u64) {
        match (self.kind, self.placement) {
            (abi::FUNCTION_MALLOC, None) => ("malloc", 0),
            (abi::FUNCTION_FREE, None) => ("free", 0),
            (function, placement) => {
                let placement = placement.or(cookie::encode(STANDARD_ARGUMENTS, 0)).unwrap_or(0);
                ("call", placement | u64::from(function) << abi::COOKIE_FUNCTION_SHIFT)
            }
        }
    }

    /// Whether the function's return matters.
    fn returns(&self) -> bool {
        self.kind != abi::FUNCTION_FREE
    }

    /// The order in which probes are set: nothing may be booked whose free could go unseen, and no entry may be seen
    /// whose return could not.
    fn rank(&self) -> u32 {
        match self.kind {
            abi::FUNCTION_FREE => 0,
            abi::FUNCTION_REALLOC | abi::FUNCTION_REALLOCARRAY => 1,
            _ => 2,
        }
    }
}

/// Of the x86-64 calling convention; on other architectures the programs do not ask.
const STANDARD_ARGUMENTS: [Register; 3] = [Register::RDI, Register::RSI, Register::RDX];

/// The processes in which a file's probes take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// This one; others that map the file do not even trap.
    Process(Pid),
    /// All that map the file, now and later.
    AllProcesses,
}

/// Probes in place.
#[derive(Default)]
pub struct Attachments {
    links: Vec<UProbeLink>,
}

impl Attachments {
    /// Sets `probes` in `file`.
    ///
    /// # Errors
    /// The first that the kernel refuses; those set before stay, held by `self`.
    pub fn attach(&mut self, kernel: &mut Kernel, file: BorrowedFd<'_>, probes: &[Probe], scope: Scope) -> Result<()> {
        // By descriptor: the file may lie in another mount namespace, be deleted, or have no name at all.
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let scope = match scope {
            Scope::Process(pid) => UProbeScope::OneProcess(NonZeroU32::new(pid.0).context("pid 0 cannot be traced")?),
            Scope::AllProcesses => UProbeScope::AllProcesses,
        };
        let mut probes: Vec<&Probe> = probes.iter().collect();
        probes.sort_by_key(|probe| probe.rank());
        let mut set = |program: &str, probe: &Probe, cookie: u64| -> Result<()> {
            let point = UProbeAttachPoint {
                location: UProbeAttachLocation::AbsoluteOffset(probe.offset),
                cookie: (cookie != 0).then_some(cookie),
            };
            let program = kernel.uprobe(program)?;
            let link = program.attach(point, &path, scope).with_context(|| {
                format!("the kernel refuses a probe on {} at file offset {:#x}", probe.function, probe.offset)
            })?;
            self.links.push(program.take_link(link)?);
            Ok(())
        };
        for probe in probes.iter().filter(|probe| !probe.returns()) {
            let (program, cookie) = probe.program();
            set(program, probe, cookie)?;
        }
        for probe in probes.iter().filter(|probe| probe.returns()) {
            set("returned", probe, 0)?;
        }
        for probe in probes.iter().filter(|probe| probe.returns()) {
            let (program, cookie) = probe.program();
            set(program, probe, cookie)?;
        }
        Ok(())
    }

    /// Probes in place.
    pub fn count(&self) -> usize {
        self.links.len()
    }

    /// Removes all of them. The kernel waits for a grace period at each: side by side.
    pub fn detach(self) {
        thread::scope(|scope| {
            for link in self.links {
                scope.spawn(move || {
                    if let Err(error) = link.detach() {
                        log::warn!(
                            "a probe could not be detached by hand (its descriptor is closed all the same): {error}"
                        );
                    }
                });
            }
        });
    }
}
