//! Processes under a seccomp filter, which some kernels kill at a return probe.
//!
//! From Linux 6.11 on the return of a probed function is a system call on x86-64, and until 6.14 it was subject to the process'
//! seccomp filter, which does not know it. Stable kernels of those series may have the fix, so the call is tried.

use std::fs;

use anyhow::{Result, bail};

use super::features;
use super::version::version;
use crate::model::Pid;

/// The series in question.
const SUSPECT: std::ops::RangeInclusive<(u32, u32)> = (6, 11)..=(6, 13);

/// Whether a kernel of this version kills what is under a filter, if filters get to see the return probe's system call. Where
/// that could not be found out, the version decides.
fn kills(version: (u32, u32), filters_see_it: impl FnOnce() -> Option<bool>) -> bool {
    cfg!(target_arch = "x86_64") && SUSPECT.contains(&version) && filters_see_it().unwrap_or(true)
}

/// Whether the `status` file of a process says that it is under a filter, or in strict mode.
fn is_filtered(status: &str) -> bool {
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    mode.is_some_and(|mode| mode != "0")
}

/// Refuses to put return probes where the kernel would kill a process for them.
///
/// # Errors
/// Names such a process: `pid` itself, or any where the probes are in every process.
pub fn check(pid: Option<Pid>, every_process: bool, forced: bool) -> Result<()> {
    if forced || !kills(version(), features::seccomp_sees_return_probes) {
        return Ok(());
    }
    let endangered = match pid {
        Some(pid) if is_endangered(pid) => Some(pid),
        _ if !every_process => None,
        _ => procfs::process::all_processes()
            .into_iter()
            .flatten()
            .filter_map(|process| Some(Pid(process.ok()?.pid as u32)))
            .find(|pid| is_endangered(*pid)),
    };
    if let Some(pid) = endangered {
        bail!(
            "process {pid} is under a seccomp filter, and this kernel would kill it at its next allocation; use Linux 6.14 \
             or one that has its repair, trace another process alone with --pid and --no-follow, or accept that with --force"
        );
    }
    Ok(())
}

fn is_endangered(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| is_filtered(&status))
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_some_kernels_kill_and_only_those_without_the_repair() {
        for version in [(5, 15), (6, 1), (6, 10), (6, 14), (6, 18), (7, 2)] {
            assert!(!kills(version, || Some(true)), "{version:?}");
        }
        for version in [(6, 11), (6, 12), (6, 13)] {
            assert_eq!(kills(version, || Some(true)), cfg!(target_arch = "x86_64"), "{version:?}");
            assert_eq!(kills(version, || None), cfg!(target_arch = "x86_64"), "{version:?}");
            assert!(!kills(version, || Some(false)), "{version:?}");
        }
    }

    #[test]
    fn a_process_under_a_filter_is_told_from_one_that_is_not() {
        // A filter of one instruction that allows everything.
        let script = "import ctypes, struct, sys\nlibc = ctypes.CDLL(None)\n\
                      step = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))\n\
                      program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 1, ctypes.addressof(step)))\n\
                      libc.prctl(38, 1, 0, 0, 0)\nassert libc.prctl(22, 2, program) == 0\n\
                      print('ready', flush=True)\nsys.stdin.read()";
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        assert!(is_endangered(Pid(child.id())));
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        let mut plain = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        // Unless these tests run under one themselves.
        assert_eq!(is_endangered(Pid(plain.id())), is_endangered(Pid(std::process::id())));
        drop(plain.stdin.take());
        plain.wait().unwrap();
        assert!(!is_filtered("Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t0\n") && is_filtered("Seccomp:\t2\n"));
    }
}
