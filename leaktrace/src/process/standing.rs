//! What keeps a process from running.
//!
//! In: a process id. Out: the cause, if not one of its threads can run, or the control group that has frozen it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use libc::pid_t;
use procfs::process::Process;

use super::threads;
use crate::model::Pid;

/// Why no thread of a process runs. The texts say that and what to do, each a part of a sentence whose subject is the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// A signal of job control has stopped it.
    Signal(Pid),
    /// Another process traces it and holds it.
    Traced {
        /// The tracer.
        tracer: Pid,
        /// The tracer's short name.
        name: String,
    },
    /// Its control group is frozen.
    Frozen(PathBuf),
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(pid) => {
                write!(f, "is stopped by a signal, SIGSTOP or one of its terminal; let it go on by kill -CONT {pid}")
            }
            Self::Traced { tracer, name } => {
                write!(f, "is held by `{name}` (process {tracer}), which traces it; let it go on from there")
            }
            Self::Frozen(group) => write!(f, "is frozen by its control group {}; thaw that", group.display()),
        }
    }
}

/// What keeps a process from running at this moment; `None` where it may run, is held by ourselves, or is gone.
#[must_use]
pub fn of(pid: Pid) -> Option<Standing> {
    let process = pid.0 as pid_t;
    let threads = || threads::ids(process).into_iter().filter_map(|tid| Some((tid, threads::state(process, tid)?)));
    // Those that have ended do not count.
    let mut states = threads().filter(|(_, state)| !matches!(state, 'Z' | 'X')).peekable();
    states.peek()?;
    if states.all(|(_, state)| matches!(state, 'T' | 't')) {
        let Some((held, _)) = threads().find(|(_, state)| *state == 't') else { return Some(Standing::Signal(pid)) };
        let tracer = threads::tracer(process, held).and_then(threads::process_of)?;
        let is_ours = tracer == std::process::id() as pid_t;
        let by_other = || Standing::Traced { tracer: Pid(tracer as u32), name: threads::comm(tracer, tracer) };
        return (!is_ours).then(by_other);
    }
    frozen_2(process).or_else(|| frozen_1(process)).map(Standing::Frozen)
}

/// The control group that keeps a process frozen by the freezer of version 1, whose threads wait uninterruptibly.
pub(super) fn frozen_1(pid: pid_t) -> Option<PathBuf> {
    let has_freezer = |controllers: &[String]| controllers.iter().any(|name| name == "freezer");
    let directory = group(pid, has_freezer, "cgroup", |options| options.contains_key("freezer"))?;
    let state = fs::read_to_string(directory.join("freezer.state")).ok()?;
    (state.trim() != "THAWED").then_some(directory)
}

/// That of version 2, which lets its threads be traced.
fn frozen_2(pid: pid_t) -> Option<PathBuf> {
    let directory = group(pid, |controllers| controllers.iter().all(String::is_empty), "cgroup2", |_| true)?;
    let events = fs::read_to_string(directory.join("cgroup.events")).ok()?;
    events.lines().any(|line| line == "frozen 1").then_some(directory)
}

/// The directory of a process' control group in the hierarchy with these controllers, which is mounted with these options.
fn group(
    pid: pid_t,
    has: impl Fn(&[String]) -> bool,
    file_system: &str,
    is_mounted_so: impl Fn(&std::collections::HashMap<String, Option<String>>) -> bool,
) -> Option<PathBuf> {
    let groups = Process::new(pid).ok()?.cgroups().ok()?;
    let group = groups.0.into_iter().find(|group| has(&group.controllers))?;
    let mut mounts = Process::myself().ok()?.mountinfo().ok()?.into_iter();
    let mount = mounts.find(|mount| mount.fs_type == file_system && is_mounted_so(&mount.super_options))?;
    // What is mounted may be a part of the hierarchy.
    let below = Path::new(&group.pathname).strip_prefix(&mount.root).ok()?;
    Some(mount.mount_point.join(below))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{Id, WaitPidFlag, waitid};

    use super::*;

    #[test]
    fn a_process_that_a_signal_has_stopped_stands_until_another_lets_it_go_on() {
        let mut cat = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (pid, raw) = (Pid(cat.id()), nix::unistd::Pid::from_raw(cat.id() as i32));
        assert_eq!(of(pid), None);
        kill(raw, Signal::SIGSTOP).unwrap();
        waitid(Id::Pid(raw), WaitPidFlag::WSTOPPED).unwrap();
        assert_eq!(of(pid), Some(Standing::Signal(pid)));
        kill(raw, Signal::SIGCONT).unwrap();
        waitid(Id::Pid(raw), WaitPidFlag::WCONTINUED).unwrap();
        assert_eq!(of(pid), None);
        drop(cat.stdin.take());
        cat.wait().unwrap();
        assert_eq!(of(pid), None, "it has ended");
    }
}
