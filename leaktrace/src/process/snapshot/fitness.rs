//! Whether a process can be copied without noticing it, as far as that is known before it is stopped.
//!
//! In: `/proc`. Out: a [`Plan`], or the reason why not.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::PathBuf;

use procfs::process::Process;

use super::Refused;
use super::gadgets::Gadgets;
use crate::elf::{Elf, Opened};
use crate::host::memory;
use crate::host::patience::{self, About};
use crate::model::Pid;
use crate::process::maps::{Mapping, MappingName};

/// How many tasks the control group must permit beside those that there are, so that the process lacks none.
const TASKS: u64 = 64;
/// Memory that must be left when everything has been copied, bytes.
const RESERVE: u64 = 64 << 20;
/// Bit 16 of a set of signals: SIGCHLD.
const SIGCHLD: u64 = 1 << (libc::SIGCHLD - 1);

/// What was found out about a process that can be copied, until it executes another program.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) pid: Pid,
    pub(super) program: PathBuf,
    pub(super) gadgets: Gadgets,
    /// Where file systems of huge pages are mounted.
    huge: Vec<PathBuf>,
}

impl Plan {
    /// Examines a process that runs, so that it is stopped for a shorter time. Takes some milliseconds.
    ///
    /// # Errors
    /// Why it cannot be copied.
    pub fn of(pid: Pid) -> Result<Self, Refused> {
        if !cfg!(target_arch = "x86_64") {
            return Err(Refused::Machine);
        }
        let status = Status::of(pid, pid)?;
        status.check(pid)?;
        if is_go(pid) {
            return Err(Refused::Go(pid));
        }
        check_init(pid, &status)?;
        check_files(pid)?;
        check_room(pid, &status)?;
        let program = program(pid)?;
        Ok(Self { pid, program, gadgets: Gadgets::find(pid)?, huge: huge_page_mounts() })
    }

    /// What a fork would disturb, as far as the process has it mapped.
    pub(super) fn check(&self, mappings: &[Mapping<'_>]) -> Result<(), Refused> {
        for mapping in mappings {
            let name = mapping.name.display();
            let begins = |with: &str| name.as_os_str().as_encoded_bytes().starts_with(with.as_bytes());
            if begins("/[aio]") || begins("anon_inode:[io_uring]") {
                return Err(Refused::AsynchronousIo(self.pid));
            }
            let is_file = matches!(mapping.name, MappingName::File { .. });
            let is_huge = is_file && self.huge.iter().any(|mount| name.starts_with(mount));
            if (is_huge || begins("/anon_hugepage")) && !mapping.permissions.shared {
                return Err(Refused::HugePages(self.pid));
            }
        }
        Ok(())
    }
}

/// What `/proc/PID/exe` says, without asking a file system.
pub(super) fn program(pid: Pid) -> Result<PathBuf, Refused> {
    fs::read_link(format!("/proc/{pid}/exe"))
        .map_err(|error| Refused::kernel(pid, "reading the name of its program", error))
}

/// `/proc/PID/task/TID/status`.
pub(super) struct Status(String);

impl Status {
    pub(super) fn of(pid: Pid, tid: Pid) -> Result<Self, Refused> {
        let bytes = fs::read(format!("/proc/{pid}/task/{tid}/status"))
            .map_err(|error| Refused::kernel(pid, "reading its status", error))?;
        Ok(Self(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn field(&self, name: &str) -> Option<&str> {
        Some(self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim())
    }

    fn signals(&self, name: &str) -> u64 {
        self.field(name).and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0)
    }

    /// The process' ids in its name spaces, from the outermost one on.
    fn ids(&self) -> Vec<&str> {
        self.field("NSpid").map(|ids| ids.split_ascii_whitespace().collect()).unwrap_or_default()
    }

    /// What may differ between threads.
    pub(super) fn check(&self, pid: Pid) -> Result<(), Refused> {
        if self.field("Seccomp").is_some_and(|mode| mode != "0") {
            return Err(Refused::Seccomp(pid));
        }
        let has_shadow_stack = self.field("x86_Thread_features").is_some_and(|features| features.contains("shstk"));
        if has_shadow_stack { Err(Refused::ShadowStack(pid)) } else { Ok(()) }
    }
}

/// Whether the program is one of Go's, which notes in it what it was built from.
fn is_go(pid: Pid) -> bool {
    let sections = patience::within(patience::ANSWERS_WITHIN, About::Process(pid.0), move || {
        let file = File::open(format!("/proc/{pid}/exe")).ok()?;
        Elf::read(Opened::new(&file)).ok()?.sections().ok()
    });
    sections.flatten().is_some_and(|sections| sections.iter().any(|section| section.name == ".go.buildinfo"))
}

/// An orphan becomes the child of the next process above it that adopts orphans, or of the first one of its name space.
fn check_init(pid: Pid, status: &Status) -> Result<(), Refused> {
    let ids = status.ids();
    if ids.last() == Some(&"1") {
        return Err(Refused::Adopts(pid));
    }
    if ids.len() < 2 {
        // That of the machine waits for orphans.
        return Ok(());
    }
    let mut above = pid;
    while let Some(parent) = Status::of(above, above)?.field("PPid").and_then(|parent| parent.parse().ok()) {
        let Ok(status) = Status::of(Pid(parent), Pid(parent)) else { return Ok(()) };
        if status.ids().last() == Some(&"1") {
            let heeds = ["SigCgt", "SigIgn", "SigBlk"]
                .map(|name| status.signals(name))
                .into_iter()
                .any(|set| set & SIGCHLD != 0);
            return if heeds { Ok(()) } else { Err(Refused::Unreaped { pid, init: Pid(parent) }) };
        }
        above = Pid(parent);
    }
    Ok(())
}

/// Where file systems of huge pages are mounted.
fn huge_page_mounts() -> Vec<PathBuf> {
    let mounts = Process::myself().and_then(|process| process.mountinfo());
    let mounts = mounts.map(|mounts| mounts.0).unwrap_or_default();
    mounts.into_iter().filter(|mount| mount.fs_type == "hugetlbfs").map(|mount| mount.mount_point).collect()
}

/// What a fork would disturb, as far as the process has it open.
fn check_files(pid: Pid) -> Result<(), Refused> {
    let files = fs::read_dir(format!("/proc/{pid}/fd"))
        .map_err(|error| Refused::kernel(pid, "reading its open files", error))?;
    for file in files.flatten() {
        match fs::read_link(file.path()).unwrap_or_default().to_str() {
            Some("anon_inode:[userfaultfd]" | "/dev/userfaultfd") => return Err(Refused::PageFaults(pid)),
            Some("anon_inode:[io_uring]") => return Err(Refused::AsynchronousIo(pid)),
            _ => {}
        }
    }
    Ok(())
}

fn check_room(pid: Pid, status: &Status) -> Result<(), Refused> {
    let kibibytes = |name| {
        let value = status.field(name).and_then(|value| value.strip_suffix("kB")?.trim().parse::<u64>().ok());
        value.unwrap_or(0).saturating_mul(1024)
    };
    let needed = kibibytes("RssAnon") + kibibytes("VmPTE") + RESERVE;
    if let Some(free) = memory::available_to(pid.0).filter(|free| *free < needed) {
        return Err(Refused::Memory { pid, needed, free });
    }
    let is_strict = fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2");
    if is_strict {
        return Err(Refused::Commitment(pid));
    }
    match tasks_left(pid).into_iter().chain(tasks_left_to_user(pid, status)).min() {
        Some(left) if left < TASKS => Err(Refused::Tasks { pid, left }),
        _ => Ok(()),
    }
}

/// How many tasks more its user may have; `None` without a limit, as for root.
fn tasks_left_to_user(pid: Pid, status: &Status) -> Option<u64> {
    let user: u32 = status.field("Uid")?.split_ascii_whitespace().next()?.parse().ok()?;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max processes"))?;
    let limit: u64 = limit.split_ascii_whitespace().next()?.parse().ok()?;
    if user == 0 {
        return None;
    }
    let processes = procfs::process::all_processes().ok()?.filter_map(Result::ok);
    let threads = processes.filter_map(|process| {
        let status = process.status().ok().filter(|status| status.ruid == user)?;
        Some(status.threads)
    });
    Some(limit.saturating_sub(threads.sum()))
}

/// How many tasks more its control groups permit; `None` where they do not limit them.
fn tasks_left(pid: Pid) -> Option<u64> {
    let process = Process::new(pid.0 as i32).ok()?;
    let (mounts, groups) = (Process::myself().ok()?.mountinfo().ok()?, process.cgroups().ok()?);
    let directories = mounts.into_iter().filter_map(|mount| {
        let group = groups.0.iter().find(|group| match mount.fs_type.as_str() {
            "cgroup2" => group.hierarchy == 0,
            "cgroup" => mount.super_options.contains_key("pids") && group.controllers.iter().any(|name| name == "pids"),
            _ => false,
        })?;
        let below = OsStr::new(group.pathname.strip_prefix(mount.root.trim_end_matches('/'))?.trim_start_matches('/'));
        Some((mount.mount_point.join(below), mount.mount_point))
    });
    let levels = directories.flat_map(|(directory, top)| {
        directory.ancestors().take_while(|level| level.starts_with(&top)).map(PathBuf::from).collect::<Vec<_>>()
    });
    let left = levels.filter_map(|level| {
        let number = |name| fs::read_to_string(level.join(name)).ok()?.trim().parse::<u64>().ok();
        Some(number("pids.max")?.saturating_sub(number("pids.current")?))
    });
    left.min()
}
