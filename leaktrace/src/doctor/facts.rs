//! What is known of this machine and of our rights on it.
//!
//! In: /proc, /sys and the kernel's answers. Out: plain values, on which `needs` decides. Nothing is judged here.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::host::features::{self, Tried};

/// The inode numbers of the first namespaces, which never change (`PROC_*_INIT_INO` in `include/linux/proc_ns.h`).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;

/// Everything that verdicts are based on. `None`: could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Facts {
    /// The architecture that leaktrace was built for.
    pub architecture: &'static str,
    /// `uname -r`.
    pub release: String,
    /// Its first two numbers; (0, 0) where there are none.
    pub version: (u32, u32),
    /// The kernel has uprobe events.
    pub uprobes: bool,
    /// Loading a program of the type that uprobes run.
    pub program: Tried,
    /// Attaching one with a cookie.
    pub attachment: Tried,
    /// Creating a ring buffer.
    pub ring_buffer: Tried,
    /// Attaching to many places of a process at once.
    pub multi: bool,
    /// Programs that decide at the entry about the return.
    pub sessions: bool,
    /// Programs that ask what is mapped at an address.
    pub finds_mappings: bool,
    /// The kernel's own type information is there.
    pub btf: bool,
    /// Effective capabilities, bit n for capability n.
    pub capabilities: Option<u64>,
    /// We are in the first user namespace, where capabilities hold for the whole machine.
    pub first_user_namespace: Option<bool>,
    /// We are in the first pid namespace, whose pids the kernel's programs see.
    pub first_pid_namespace: Option<bool>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i64>,
    /// `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<i64>,
    /// `net.core.bpf_jit_enable`.
    pub jit: Option<i64>,
    /// `kernel.yama.ptrace_scope`.
    pub ptrace_scope: Option<i64>,
    /// The lockdown mode: `none`, `integrity` or `confidentiality`.
    pub lockdown: Option<String>,
    /// The soft limit of locked memory in bytes; `u64::MAX` for none.
    pub memory_lock: Option<u64>,
    /// We run under a seccomp filter.
    pub seccomp: Option<bool>,
    /// A file that container runtimes leave in their containers.
    pub container: Option<&'static str>,
    /// A seccomp filter sees the system call of return probes.
    pub filters_see_return_probes: Option<bool>,
    /// The kernel marks pages that are written.
    pub marks_written_pages: Option<bool>,
}

impl Facts {
    /// All of them. Takes some tens of milliseconds.
    #[must_use]
    pub fn gather() -> Self {
        let quick = Self::gather_quickly();
        let attachable = quick.program == Tried::Works && quick.uprobes;
        let (multi, sessions) =
            if quick.program == Tried::Works { features::multi_and_sessions() } else { (false, false) };
        Self {
            attachment: if attachable { features::attach_probe() } else { Tried::Not },
            multi,
            sessions,
            finds_mappings: quick.program == Tried::Works && features::finds_mappings(),
            filters_see_return_probes: features::seccomp_sees_return_probes(),
            ..quick
        }
    }

    /// Those that decide whether a trace can be tried at all, within a millisecond; the others count as not tried.
    #[must_use]
    pub fn gather_quickly() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
        Self {
            architecture: std::env::consts::ARCH,
            release: release.unwrap_or_default(),
            version: crate::host::version::version(),
            uprobes: features::has_uprobes(),
            program: features::load_program(),
            attachment: Tried::Not,
            ring_buffer: features::create_ring_buffer(),
            multi: false,
            sessions: false,
            finds_mappings: false,
            btf: fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false),
            capabilities: field(&status, "CapEff:").and_then(|mask| u64::from_str_radix(mask, 16).ok()),
            first_user_namespace: is_namespace("user", FIRST_USER_NAMESPACE),
            first_pid_namespace: is_namespace("pid", FIRST_PID_NAMESPACE),
            perf_event_paranoid: number("/proc/sys/kernel/perf_event_paranoid"),
            unprivileged_bpf_disabled: number("/proc/sys/kernel/unprivileged_bpf_disabled"),
            jit: number("/proc/sys/net/core/bpf_jit_enable"),
            ptrace_scope: number("/proc/sys/kernel/yama/ptrace_scope"),
            lockdown: fs::read_to_string("/sys/kernel/security/lockdown").ok().and_then(|text| lockdown(&text)),
            memory_lock: nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK)
                .ok()
                .map(|(soft, _)| soft),
            seccomp: field(&status, "Seccomp:").map(|mode| mode != "0"),
            container: ["/run/.containerenv", "/.dockerenv"]
                .into_iter()
                .find(|&path| fs::exists(path).unwrap_or(false)),
            filters_see_return_probes: None,
            marks_written_pages: features::marks_written_pages(),
        }
    }
}

/// The value of a line of a status file.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn number(path: &str) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The mode in brackets: `none [integrity] confidentiality`.
fn lockdown(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(mode, _)| mode.to_owned())
}

fn is_namespace(kind: &str, inode: u64) -> Option<bool> {
    fs::metadata(format!("/proc/self/ns/{kind}")).ok().map(|metadata| metadata.ino() == inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_of_lockdown_is_the_one_in_brackets() {
        assert_eq!(lockdown("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(lockdown("[none] integrity confidentiality\n").as_deref(), Some("none"));
        assert_eq!(lockdown(""), None);
    }

    #[test]
    fn fields_of_a_status_file_are_found_by_name() {
        let status = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\nCapEff:\t000001ffffffffff\n";
        assert_eq!(field(status, "Seccomp:"), Some("2"));
        assert_eq!(field(status, "CapEff:"), Some("000001ffffffffff"));
        assert_eq!(field(status, "CapPrm:"), None);
    }

    #[test]
    fn this_machine_is_described() {
        let facts = Facts::gather();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(facts.release, release.trim());
        assert!(release.starts_with(&format!("{}.{}.", facts.version.0, facts.version.1)));
        assert_eq!(facts.attachment, Tried::Works, "these tests run as root on a kernel with uprobes");
        // What the kernel lists of mappings has this flag only if it marks pages (`show_smap_vma_flags` of fs/proc/task_mmu.c).
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut flags = smaps.lines().filter_map(|line| line.strip_prefix("VmFlags:"));
        let marks = flags.any(|flags| flags.split(' ').any(|flag| flag == "sd"));
        assert_eq!(facts.marks_written_pages, Some(marks));
    }
}
