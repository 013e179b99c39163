//! Processes under a seccomp filter, which some kernels kill at a return probe.
//!
//! From Linux 6.11 on the return of a probed function is a system call on x86-64, and until 6.14 it was subject to the
//! process' seccomp filter, which does not know it. Kernels of those series may have the repair all the same, so it is tried.

use std::fs;

use anyhow::{Result, bail};

use super::attach::Scope;
use super::kernel;
use crate::model::Pid;

/// `uretprobe` (`arch/x86/entry/syscalls/syscall_64.tbl`).
const SYS_URETPROBE: libc::c_long = 335;
/// The series in question.
const SUSPECT: std::ops::RangeInclusive<(u32, u32)> = (6, 11)..=(6, 13);

/// Whether a kernel of this version kills what is under a filter, if filters get to see the return probe's system call.
fn kills(version: (u32, u32), filters_see_it: impl FnOnce() -> bool) -> bool {
    cfg!(target_arch = "x86_64") && SUSPECT.contains(&version) && filters_see_it()
}

/// Whether the `status` file of a process says that it is under a filter, or in strict mode.
fn is_filtered(status: &str) -> bool {
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    mode.is_some_and(|mode| mode != "0")
}

/// Refuses to put return probes where the kernel would kill a process for them.
///
/// # Errors
/// Names such a process: `pid` itself, or any where the probes are for all.
pub fn check(pid: Option<Pid>, scope: Scope, forced: bool) -> Result<()> {
    if forced || !kills(kernel::version(), filters_see_uretprobe) {
        return Ok(());
    }
    let endangered = match (pid, scope) {
        (Some(pid), _) if is_endangered(pid) => Some(pid),
        (_, Scope::Process(_)) => None,
        (_, Scope::AllProcesses) => procfs::process::all_processes()
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

/// Whether a filter is asked about the return probe's system call: a child of ours tries.
fn filters_see_uretprobe() -> bool {
    const REFUSED: libc::c_int = 1;
    // In `seccomp_data` the number comes first. That call is refused, all others are allowed.
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let jump = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        step(load, 0, 0, 0),
        step(jump, 0, 1, SYS_URETPROBE as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: between fork and _exit the child makes system calls only, with what is on its stack.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let none: libc::rlimit = std::mem::zeroed();
            // It is about to be killed for calling from elsewhere, on kernels that let it through.
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let filtered = libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0;
            let refused = filtered
                && libc::syscall(SYS_URETPROBE) == -1
                && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
            libc::_exit(if refused { REFUSED } else { 0 });
        }
        let mut status = 0;
        // Without a child nothing is known, and then the version decides.
        child < 0
            || libc::waitpid(child, &raw mut status, 0) != child
            || libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == REFUSED
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufRead;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_some_kernels_kill_and_only_those_without_the_repair() {
        for version in [(5, 15), (6, 1), (6, 10), (6, 14), (6, 18), (7, 2)] {
            assert!(!kills(version, || true), "{version:?}");
        }
        for version in [(6, 11), (6, 12), (6, 13)] {
            assert_eq!(kills(version, || true), cfg!(target_arch = "x86_64"), "{version:?}");
            assert!(!kills(version, || false), "{version:?}");
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

    #[test]
    fn kernels_from_6_14_on_do_not_ask_filters() {
        if cfg!(target_arch = "x86_64") && kernel::version() >= (6, 14) {
            assert!(!filters_see_uretprobe());
        } else if kernel::version() < (6, 11) {
            assert!(filters_see_uretprobe(), "a call that does not exist is filtered as any other");
        }
    }
}
