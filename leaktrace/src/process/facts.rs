//! What /proc says of a living process.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::iter;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use procfs::process::Process;

use crate::host::clock::{monotonic_ns, since_boot_ns};
use crate::host::patience::{self, About};
use crate::model::{MemoryUse, Pid};

/// What leaktrace is called.
const NAME: &str = "leaktrace";

/// Which process it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The kernel's short name of it.
    pub comm: String,
    /// Path of its executable.
    pub exe: Option<PathBuf>,
    /// When it started.
    pub start_time: Option<Timestamp>,
}

/// Reads which process it is; `None` where it is gone.
pub fn identity(pid: Pid) -> Option<Identity> {
    let process = Process::new(pid.0 as i32).ok()?;
    let stat = process.stat().ok()?;
    Some(Identity { exe: process.exe().ok(), start_time: since_boot(stat.starttime), comm: stat.comm })
}

/// Whether a process is leaktrace, or holds probes for one: it executes our own file, or one of the usual name.
#[must_use]
pub fn is_leaktrace(pid: Pid) -> bool {
    let file = |of: &str| fs::metadata(format!("/proc/{of}/exe")).ok().map(|file| (file.dev(), file.ino()));
    let is_named_so = |exe: &Path| {
        // What the kernel says of a file that was removed, as by an update: `d_path` of fs/d_path.c.
        let name = exe.file_name().map(OsStr::as_bytes);
        name.is_some_and(|name| name.strip_suffix(b" (deleted)").unwrap_or(name) == NAME.as_bytes())
    };
    let of = pid.to_string();
    file(&of).is_some_and(|its| file("self") == Some(its))
        || fs::read_link(format!("/proc/{of}/exe")).is_ok_and(|exe| is_named_so(&exe))
}

/// When the process started, by `CLOCK_MONOTONIC`, rounded down to the kernel's hundredths of a second. `None` where it is
/// gone.
pub fn started_ns(pid: Pid) -> Option<u64> {
    let ticks = Process::new(pid.0 as i32).ok()?.stat().ok()?.starttime;
    let started = ticks.checked_mul(1_000_000_000)? / procfs::ticks_per_second();
    let age = since_boot_ns().ok()?.saturating_sub(started);
    Some(monotonic_ns().ok()?.saturating_sub(age))
}

/// Reads how much memory a process has, for which the kernel walks through all of it; `None` where it is gone.
pub fn memory(pid: Pid) -> Option<MemoryUse> {
    let rollup = Process::new(pid.0 as i32).ok()?.smaps_rollup().ok()?;
    let values = &rollup.memory_map_rollup.0.first()?.extension.map;
    let bytes = |name: &str| values.get(name).copied();
    let of_its_own = bytes("Private_Clean").zip(bytes("Private_Dirty")).map(|(clean, dirty)| clean + dirty);
    Some(MemoryUse {
        rss_bytes: bytes("Rss"),
        pss_bytes: bytes("Pss"),
        uss_bytes: of_its_own,
        swap_bytes: bytes("Swap"),
    })
}

/// Reads how much memory a process has resident, from the kernel's running count: that takes it microseconds, and may be off by some
/// hundred pages.
pub fn resident(pid: Pid) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(procfs::page_size())
}

/// Processor time that all threads of a process have used so far, to the kernel's hundredths of a second. `None` where it is gone.
pub fn processor_time(pid: Pid) -> Option<Duration> {
    let stat = Process::new(pid.0 as i32).ok()?.stat().ok()?;
    let ticks = stat.utime.checked_add(stat.stime)?;
    Some(Duration::from_nanos(ticks.checked_mul(1_000_000_000)? / procfs::ticks_per_second()))
}

/// Memory that a process has to itself and in no file, resident or swapped out, from the kernel's running counts, which may be off
/// by some pages. `None` where it is gone.
pub fn private_memory(pid: Pid) -> Option<u64> {
    let status = Process::new(pid.0 as i32).ok()?.status().ok()?;
    let kilobytes = status.rssanon?.saturating_add(status.vmswap.unwrap_or(0));
    kilobytes.checked_mul(1024)
}

/// Variables by which a runtime or an allocator is told how to allocate.
const VARIABLES: [&str; 1] = ["PYTHONMALLOC"];
/// The most that is read of an environment, bytes: the kernel lets it have a quarter of the stack.
const MAX_ENVIRONMENT: u64 = 4 << 20;
/// How long that may take.
const ENVIRONMENT_WITHIN: Duration = Duration::from_secs(1);
/// The longest value that is kept, bytes.
const MAX_VALUE: usize = 256;

/// Whether a program heeds these variables, so that they are worth reading even in a short-lived process: that takes a fifth of a
/// millisecond, since a thread is started for it that may be kept waiting. The name of a script is the script's own, and its
/// executable is the interpreter.
pub fn heeds_environment(comm: &str, exe: Option<&Path>) -> bool {
    let is_python = |name: &[u8]| name.starts_with(b"python");
    let file_name = exe.and_then(Path::file_name);
    is_python(comm.as_bytes()) || file_name.is_some_and(|name| is_python(name.as_bytes()))
}

/// What the names of variables begin with by which allocators, the dynamic linker or checkers of memory are told what to do.
const TELLING: [&str; 11] = [
    "MALLOC_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "PYTHONMALLOC",
    "MIMALLOC_",
    "TCMALLOC_",
    "JE_MALLOC_",
    "_RJEM_MALLOC_",
    "HEAPCHECK",
    "ASAN_OPTIONS",
    "LSAN_OPTIONS",
];
/// Names that are kept, and the letters of one.
const MAX_NAMES: usize = 32;
const MAX_NAME: usize = 64;

/// Whether a variable tells a program how to allocate. Other letters than these no such name has.
fn tells(name: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    name.len() <= MAX_NAME && name.iter().all(is_plain) && TELLING.iter().any(|it| name.starts_with(it.as_bytes()))
}

/// The names of those variables in an environment, sorted.
fn telling<'a>(names: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let told = names.filter(|name| tells(name)).map(|name| String::from_utf8_lossy(name).into_owned());
    told.take(MAX_NAMES).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The names of variables by which this process, and a command that it starts, is told how to allocate.
pub fn own_variables() -> Vec<String> {
    let names: Vec<_> = std::env::vars_os().map(|(name, _)| name).collect();
    telling(names.iter().map(|name| name.as_bytes()))
}

/// The same of another process; `None` where they cannot be read.
pub fn variables(pid: Pid) -> Option<Vec<String>> {
    let bytes = raw_environment(pid)?;
    Some(telling(bytes.split(|byte| *byte == 0).filter_map(|it| it.split(|byte| *byte == b'=').next())))
}

/// The variables that say how a process allocates, as it was started with them; `None` where they cannot be read.
pub fn environment(pid: Pid) -> Option<Vec<(&'static str, String)>> {
    let bytes = raw_environment(pid)?;
    let value = |name: &'static str| {
        let mut values =
            bytes.split(|byte| *byte == 0).filter_map(|it| it.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        values.next().map(|value| (name, String::from_utf8_lossy(&value[..value.len().min(MAX_VALUE)]).into_owned()))
    };
    Some(VARIABLES.into_iter().filter_map(value).collect())
}

fn raw_environment(pid: Pid) -> Option<Vec<u8>> {
    // They are read from its memory, where it may have mapped a file of a file system that does not answer.
    let bytes = patience::within(ENVIRONMENT_WITHIN, About::Process(pid.0), move || {
        let mut bytes = Vec::new();
        let file = File::open(format!("/proc/{pid}/environ")).ok()?;
        file.take(MAX_ENVIRONMENT).read_to_end(&mut bytes).ok().map(|_| bytes)
    })??;
    if bytes.is_empty() {
        // It has ended, or its program has just begun and the kernel has not noted yet where they lie.
        return None;
    }
    Some(bytes)
}

/// The processes that descend from these and run now, parents before their children. Neither this program nor what started it
/// is among them.
pub fn descendants(of: &[Pid]) -> Vec<Pid> {
    // States of processes that have ended and that their parents have not reaped.
    const ENDED: [char; 3] = ['Z', 'X', 'x'];
    let mut found: Vec<Pid> = Vec::new();
    // A process that is forked while the list is read may be missed, but not by the next reading.
    loop {
        let Ok(processes) = procfs::process::all_processes() else { return found };
        let parents: HashMap<Pid, Pid> = processes
            .filter_map(|process| process.ok()?.stat().ok())
            .filter(|stat| !ENDED.contains(&stat.state))
            .map(|stat| (Pid(stat.pid as u32), Pid(stat.ppid as u32)))
            .collect();
        let own: Vec<Pid> = iter::successors(Some(Pid(std::process::id())), |pid| parents.get(pid).copied()).collect();
        let before = found.len();
        let mut grew = true;
        while grew {
            grew = false;
            for (pid, parent) in &parents {
                let is_new = !of.contains(pid) && !found.contains(pid) && !own.contains(pid);
                if is_new && (of.contains(parent) || found.contains(parent)) {
                    found.push(*pid);
                    grew = true;
                }
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// The moment of a reading of `CLOCK_MONOTONIC`.
pub fn moment(monotonic: u64) -> Option<Timestamp> {
    let ago = jiff::SignedDuration::from_nanos(i64::try_from(monotonic_ns().ok()?.checked_sub(monotonic)?).ok()?);
    Timestamp::now().checked_sub(ago).ok()
}

/// From clock ticks since boot.
fn since_boot(ticks: u64) -> Option<Timestamp> {
    let boot = procfs::boot_time_secs().ok()?;
    let per_second = procfs::ticks_per_second();
    let millis = ticks.checked_mul(1000)? / per_second;
    Timestamp::from_millisecond(i64::try_from(boot * 1000 + millis).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use nix::sys::wait::{Id, WaitPidFlag, waitid};

    use super::*;

    #[test]
    fn of_the_environment_only_names_are_told_that_change_how_is_allocated() {
        let names = [
            "PATH",
            "MALLOC_ARENA_MAX",
            "LD_PRELOAD",
            "MALLOC_CONF",
            "MALLOC_\u{1b}[31m",
            "LD_LIBRARY_PATH",
            "LD_PRELOAD",
        ];
        assert_eq!(
            telling(names.iter().map(|name| name.as_bytes())),
            ["LD_PRELOAD", "MALLOC_ARENA_MAX", "MALLOC_CONF"]
        );
        let long = format!("MALLOC_{}", "A".repeat(MAX_NAME));
        assert!(telling(std::iter::once(long.as_bytes())).is_empty());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .env_clear()
            .envs([("MALLOC_ARENA_MAX", "secret"), ("HOME", "/secret")])
            .spawn()
            .unwrap();
        // Its program may have just begun.
        let told = (0..1000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(2));
            variables(Pid(child.id())).filter(|names| !names.is_empty())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(told.unwrap(), ["MALLOC_ARENA_MAX"]);
    }

    #[test]
    fn variables_of_a_process_that_has_ended_are_unknown_and_not_unset() {
        let mut cat = Command::new("cat");
        let cat = cat.env("PYTHONMALLOC", "malloc").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut cat = cat.spawn().unwrap();
        // Once it answers the kernel has noted where they lie.
        cat.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        cat.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let pid = Pid(cat.id());
        assert_eq!(environment(pid), Some(vec![("PYTHONMALLOC", "malloc".to_owned())]));
        drop(cat.stdin.take());
        // Leaves the zombie in place.
        waitid(Id::Pid(nix::unistd::Pid::from_raw(cat.id() as i32)), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            .unwrap();
        assert_eq!(environment(pid), None);
        cat.wait().unwrap();
        assert_eq!(environment(pid), None);
    }

    #[test]
    fn another_leaktrace_is_known_by_its_file() {
        assert!(is_leaktrace(Pid(std::process::id())), "this very file");
        let directory = tempfile::tempdir().unwrap();
        for (name, expected) in [("leaktrace", true), ("leaktrace-gui", false)] {
            let program = directory.path().join(name);
            // By another program: a process that is forked by another thread might have it open for writing.
            assert!(Command::new("cp").arg("/usr/bin/sleep").arg(&program).status().unwrap().success());
            let mut child = Command::new(&program).arg("1000").spawn().unwrap();
            let pid = Pid(child.id());
            assert_eq!(is_leaktrace(pid), expected, "{name}");
            fs::remove_file(&program).unwrap();
            assert_eq!(is_leaktrace(pid), expected, "{name}, removed");
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(!is_leaktrace(pid), "it has ended");
        }
    }

    #[test]
    fn a_script_heeds_the_variables_of_its_interpreter() {
        let interpreter = Path::new("/usr/bin/python3.11");
        assert!(heeds_environment("python3", None) && heeds_environment("gunicorn", Some(interpreter)));
        assert!(!heeds_environment("gunicorn", None));
        assert!(!heeds_environment("sh", Some(Path::new("/usr/lib/python3/bin/dash"))));
    }

    #[test]
    fn the_start_of_a_process_lies_within_a_hundredth_of_a_second_before_it_is_seen() {
        let before = monotonic_ns().unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let (started, after) = (started_ns(Pid(child.id())).unwrap(), monotonic_ns().unwrap());
        drop(child.stdin.take());
        child.wait().unwrap();
        // Up to a tick early, never late.
        assert!(before.saturating_sub(10_000_001) <= started && started <= after, "{before} {started} {after}");
    }
}
