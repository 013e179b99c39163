//! Whom to trace, as the command line says it.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::{UsageError, WhomArgs};
use crate::model::Pid;

/// Whom to trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// These running processes: at least one, none twice.
    Pids(Vec<Pid>),
    /// This command, to be launched: the program and its arguments.
    Command(Vec<OsString>),
    /// Every process that passes these filters, of which there is at least one.
    Filtered(Filters),
    /// Every process.
    System,
}

/// What a process must match to be traced: one value of each kind that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters {
    /// Its name.
    pub comms: Vec<String>,
    /// The control group that it is in, or that its group is in.
    pub cgroups: Vec<PathBuf>,
    /// Its real user id.
    pub uids: Vec<u32>,
}

impl Whom {
    /// Whether only processes that are known from the start, or come from these, are traced.
    #[must_use]
    pub fn is_named(&self) -> bool {
        matches!(self, Self::Pids(_) | Self::Command(_))
    }

    /// Settles the options that say it.
    ///
    /// # Errors
    /// They contradict one another.
    pub fn resolve(args: WhomArgs) -> Result<Self, UsageError> {
        let mut pids: Vec<Pid> = Vec::new();
        for pid in args.pids.into_iter().flat_map(|pids| pids.0) {
            // A process that is named twice is traced once.
            if !pids.contains(&pid) {
                pids.push(pid);
            }
        }
        let filters = Filters { comms: args.comms, cgroups: args.cgroups, uids: args.uids };
        let filter = match &filters {
            Filters { comms, .. } if !comms.is_empty() => Some("--comm"),
            Filters { cgroups, .. } if !cgroups.is_empty() => Some("--cgroup"),
            Filters { uids, .. } if !uids.is_empty() => Some("--uid"),
            _ => None,
        };
        let whom = match (pids.is_empty(), args.command.is_empty()) {
            (false, false) => {
                return Err(UsageError::new("--pid and a COMMAND cannot be traced together; leave one of them out"));
            }
            (false, true) => Self::Pids(pids),
            (true, false) => Self::Command(args.command),
            (true, true) if filter.is_some() => Self::Filtered(filters),
            (true, true) => Self::System,
        };
        match (&whom, filter) {
            (Self::Pids(_), Some(filter)) => Err(UsageError::new(format!(
                "{filter} chooses among all processes, --pid names them; leave one of them out"
            ))),
            (Self::Command(_), Some(filter)) => Err(UsageError::new(format!(
                "{filter} chooses among all processes, a COMMAND is traced as it is; leave one of them out"
            ))),
            (Self::Filtered(_) | Self::System, _) if args.no_follow => Err(UsageError::new(
                "--no-follow is about the children of --pid or a COMMAND; give one of them or leave it out",
            )),
            _ => Ok(whom),
        }
    }
}
