//! What tracing needs, judged from facts.
//!
//! In: [`Facts`]. Out: one [`Need`] each, in the order in which they should be met. Pure: no look at the machine.

use super::facts::Facts;
use super::need::Need;
use crate::host::features::Tried;

/// All needs; the first that is in the way is the one to name.
#[must_use]
pub fn all(facts: &Facts) -> Vec<Need> {
    vec![
        architecture(facts).required(),
        kernel(facts).required(),
        uprobes(facts).required(),
        capabilities(facts).required(),
        user_namespace(facts).required(),
        programs(facts).required(),
        attachment(facts).required(),
        ring_buffer(facts).required(),
        pid_namespace(facts).required(),
        lockdown(facts),
        many_at_once(facts),
        type_information(facts),
        look_up(facts),
        jit(facts),
        return_probes(facts),
        changes(facts),
        private_stacks(facts),
        hold(facts),
        container(facts),
        paranoia(facts),
        unprivileged(facts),
        memory_lock(facts),
    ]
}

/// The oldest kernel that may work: attach cookies and links of perf events came with 5.15.
pub const OLDEST: (u32, u32) = (5, 15);
/// The oldest kernel that is tested.
pub const OLDEST_TESTED: (u32, u32) = (6, 1);

fn architecture(facts: &Facts) -> Need {
    let (what, found) = ("architecture", facts.architecture);
    match found {
        "x86_64" => Need::ok(what, found),
        "aarch64" => Need::unknown(what, found, "leaktrace is built for it, but only tested on x86_64"),
        _ => Need::missing(what, found, "leaktrace traces on x86_64; run it there"),
    }
}

fn kernel(facts: &Facts) -> Need {
    let (what, found) = ("kernel", format!("Linux {}", facts.release));
    match facts.version {
        (0, 0) => Need::unknown(what, found, "leaktrace needs Linux 6.1 or later"),
        version if version < OLDEST => Need::missing(
            what,
            found,
            "leaktrace needs Linux 6.1 or later, and before 5.15 uprobes have no cookies: boot a newer kernel",
        ),
        version if version < OLDEST_TESTED => Need::missing(
            what,
            found,
            "leaktrace is tested on Linux 6.1 and later: boot a newer kernel, or try this one with --force",
        ),
        _ => Need::ok(what, found),
    }
}

fn uprobes(facts: &Facts) -> Need {
    let what = "uprobes";
    if facts.uprobes {
        Need::ok(what, "the kernel has uprobe events")
    } else {
        Need::missing(
            what,
            "the kernel has no /sys/bus/event_source/devices/uprobe",
            "mount /sys, or boot a kernel with CONFIG_UPROBE_EVENTS=y",
        )
    }
}

/// Capabilities by number (include/uapi/linux/capability.h).
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;
const CAP_CHECKPOINT_RESTORE: u32 = 40;

/// What each is needed for. `CAP_SYS_ADMIN` includes all but `CAP_SYS_PTRACE`.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (CAP_BPF, "CAP_BPF", "to load programs"),
    (CAP_PERFMON, "CAP_PERFMON", "to attach probes"),
    (CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "to read other processes' mappings"),
    (CAP_CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE", "to open the files that they have mapped"),
];

fn has(facts: &Facts, capability: u32) -> bool {
    let held = facts.capabilities.unwrap_or(0);
    let holds = |capability: u32| held & 1 << capability != 0;
    holds(capability) || capability != CAP_SYS_PTRACE && holds(CAP_SYS_ADMIN)
}

fn capabilities(facts: &Facts) -> Need {
    let what = "capabilities";
    if facts.capabilities.is_none() {
        return Need::unknown(what, "/proc/self/status cannot be read", "mount /proc");
    }
    let missing: Vec<String> = CAPABILITIES
        .iter()
        .filter(|(number, ..)| !has(facts, *number))
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        let names: Vec<&str> = CAPABILITIES.iter().map(|(_, name, _)| *name).collect();
        return Need::ok(what, format!("{} are effective", names.join(", ")));
    }
    Need::missing(what, format!("without {}", missing.join(", ")), "run leaktrace as root, with sudo for example")
}

fn user_namespace(facts: &Facts) -> Need {
    let what = "user namespace";
    match facts.first_user_namespace {
        Some(true) => Need::ok(what, "the machine's own"),
        Some(false) => Need::missing(
            what,
            "another than the machine's own, where capabilities do not reach the kernel's BPF",
            "run leaktrace outside of the rootless container, as the machine's root",
        ),
        None => Need::unknown(what, "/proc/self/ns/user cannot be read", "mount /proc"),
    }
}

/// What made a request fail with `errno`, and the next step.
fn obstacle(facts: &Facts, errno: i32) -> (String, String) {
    let error = std::io::Error::from_raw_os_error(errno);
    let next = match errno {
        libc::ENOSYS => "boot a kernel with CONFIG_BPF_SYSCALL=y",
        libc::EPERM | libc::EACCES if facts.lockdown.as_deref().is_some_and(|mode| mode != "none") => {
            "the kernel is locked down: boot it with lockdown=none or without Secure Boot"
        }
        libc::EPERM | libc::EACCES if facts.seccomp == Some(true) => {
            "a seccomp filter is in force: run leaktrace outside of the container, or with its filter off"
        }
        libc::EPERM | libc::EACCES => {
            "run leaktrace as root; if that is root, a security module refuses: see the kernel's log"
        }
        _ => "boot a kernel with CONFIG_BPF_EVENTS=y and CONFIG_UPROBE_EVENTS=y",
    };
    (error.to_string(), next.to_owned())
}

/// A thing that was tried.
fn tried(facts: &Facts, what: &'static str, how: Tried, works: &str, fails: &str) -> Need {
    match how {
        Tried::Works => Need::ok(what, works),
        Tried::Not => Need::unknown(what, "not tried", "BPF programs and uprobes come first"),
        Tried::Refused(errno) => {
            let (error, next) = obstacle(facts, errno);
            Need::missing(what, format!("{fails}: {error}"), next)
        }
    }
}

fn programs(facts: &Facts) -> Need {
    tried(facts, "BPF programs", facts.program, "one was loaded", "none can be loaded")
}

fn attachment(facts: &Facts) -> Need {
    tried(
        facts,
        "probes",
        facts.attachment,
        "one was attached, with a cookie, by a link of its own",
        "none can be attached",
    )
}

fn ring_buffer(facts: &Facts) -> Need {
    tried(facts, "ring buffers", facts.ring_buffer, "one was created", "none can be created")
}

fn pid_namespace(facts: &Facts) -> Need {
    let what = "pid namespace";
    match facts.first_pid_namespace {
        Some(true) => Need::ok(what, "the machine's own"),
        Some(false) => Need::missing(
            what,
            "another than the machine's own: the pids seen here are not those that the kernel's programs see",
            "run leaktrace on the machine itself, or in a container with its pids (docker run --pid=host)",
        ),
        None => Need::unknown(what, "/proc/self/ns/pid cannot be read", "mount /proc"),
    }
}

fn lockdown(facts: &Facts) -> Need {
    let what = "lockdown";
    match facts.lockdown.as_deref() {
        None => Need::ok(what, "not in this kernel"),
        Some(mode @ ("none" | "integrity")) => Need::ok(what, mode),
        Some(mode) => Need::unknown(
            what,
            format!("{mode}, which keeps programs from reading the kernel's memory"),
            "if programs are refused, boot with lockdown=integrity",
        ),
    }
}

fn many_at_once(facts: &Facts) -> Need {
    let what = "multi links and uprobe sessions";
    if facts.program != Tried::Works {
        return Need::unknown(what, "not tried", "BPF programs come first");
    }
    match (facts.multi, facts.sessions) {
        (true, true) => Need::ok(what, "both are there: the cheapest probes"),
        (true, false) => Need::missing(
            what,
            "no uprobe sessions, which came with Linux 6.13",
            "nothing has to be done: every allocation takes a probe more",
        ),
        (false, _) => Need::missing(
            what,
            "neither is there; they came with Linux 6.10 and 6.13",
            "nothing has to be done: perf events are used, which attach and detach more slowly",
        ),
    }
}

fn type_information(facts: &Facts) -> Need {
    let what = "BTF";
    if facts.btf {
        Need::ok(what, "/sys/kernel/btf/vmlinux")
    } else {
        Need::missing(
            what,
            "no /sys/kernel/btf/vmlinux",
            "nothing has to be done: uprobe sessions, which need it, are not used then (CONFIG_DEBUG_INFO_BTF=y brings it)",
        )
    }
}

fn look_up(facts: &Facts) -> Need {
    let what = "look-up of mappings";
    match (facts.program, facts.finds_mappings && facts.btf) {
        (Tried::Works, true) => Need::ok(what, "stacks are whole from a program's first instruction on"),
        (Tried::Works, false) => Need::missing(
            what,
            "no bpf_find_vma, which came with Linux 5.17, or no BTF",
            "nothing has to be done: the first stacks after exec and dlopen are cut short, and counted",
        ),
        _ => Need::unknown(what, "not tried", "BPF programs come first"),
    }
}

fn jit(facts: &Facts) -> Need {
    let what = "BPF just-in-time compiler";
    match facts.jit {
        Some(0) => Need::missing(what, "off, so that programs run slowly", "sysctl net.core.bpf_jit_enable=1"),
        Some(_) => Need::ok(what, "on"),
        None => Need::unknown(what, "net.core.bpf_jit_enable cannot be read", "root can read it"),
    }
}

fn return_probes(facts: &Facts) -> Need {
    let what = "return probes under seccomp";
    match facts.filters_see_return_probes {
        Some(false) => Need::ok(what, "filters do not see them"),
        Some(true) => Need::missing(
            what,
            "this kernel shows them to seccomp filters, which may kill programs that run under one",
            "such programs are not traced here without --force; 6.14 and later stable kernels are cured",
        ),
        None => Need::unknown(
            what,
            format!("not tried on Linux {}", facts.release),
            "kernels 6.11 to 6.13 may kill programs that run under a seccomp filter",
        ),
    }
}

fn changes(facts: &Facts) -> Need {
    let what = "changed pages";
    match facts.marks_written_pages {
        Some(true) => Need::ok(
            what,
            "the kernel marks them (CONFIG_MEM_SOFT_DIRTY): what a leak check finds in a process that runs is as good as in one that \
             is stopped",
        ),
        Some(false) => Need::missing(
            what,
            "the kernel does not mark them (no CONFIG_MEM_SOFT_DIRTY), so that a leak check cannot be certain of memory that it \
             searches while the process runs",
            "nothing has to be done: processes that cannot be searched within --max-pause are copied instead, and of those that \
             cannot be copied blocks are at most probably lost",
        ),
        None => Need::unknown(what, "/proc/self/pagemap cannot be read", "mount /proc"),
    }
}

fn private_stacks(facts: &Facts) -> Need {
    let what = "programs' stacks";
    if facts.version >= (6, 13) {
        Need::ok(
            what,
            "this kernel may give programs stacks that preemption mixes up; leaktrace's are built to get none",
        )
    } else {
        Need::ok(what, "each run has its own")
    }
}

fn hold(facts: &Facts) -> Need {
    let what = "holding a COMMAND";
    match facts.ptrace_scope {
        Some(3..) => Need::missing(
            what,
            "kernel.yama.ptrace_scope=3 forbids ptrace until the next boot",
            "start the command yourself and trace it with -p, or boot with a lower scope",
        ),
        Some(2) if !has(facts, CAP_SYS_PTRACE) => Need::missing(
            what,
            "kernel.yama.ptrace_scope=2 allows ptrace to CAP_SYS_PTRACE only",
            "run leaktrace as root",
        ),
        _ => Need::ok(what, "ptrace of our own children is allowed"),
    }
}

fn container(facts: &Facts) -> Need {
    let what = "container";
    // What tracing needs of a container has needs of its own; this line only says where to look.
    let powerful = facts.first_pid_namespace == Some(true) && facts.program == Tried::Works;
    match (facts.container, facts.seccomp) {
        (Some(file), _) if powerful => Need::ok(what, format!("we run in one ({file}) that sees the whole machine")),
        (Some(file), _) => Need::unknown(
            what,
            format!("we run in one ({file})"),
            "give it --privileged and --pid=host, or run leaktrace on the machine itself",
        ),
        (None, Some(true)) => Need::unknown(
            what,
            "we run under a seccomp filter, as in a container",
            "if something is refused, run leaktrace outside of it",
        ),
        _ => Need::ok(what, "none seen"),
    }
}

fn paranoia(facts: &Facts) -> Need {
    let what = "perf_event_paranoid";
    match facts.perf_event_paranoid {
        Some(level) if has(facts, CAP_PERFMON) => {
            Need::ok(what, format!("{level}, which does not concern CAP_PERFMON"))
        }
        Some(level) => {
            Need::missing(what, format!("{level}, and no CAP_PERFMON, which uprobes need"), "run leaktrace as root")
        }
        None => Need::unknown(what, "cannot be read", "mount /proc; a kernel without perf events has none"),
    }
}

fn unprivileged(facts: &Facts) -> Need {
    let what = "unprivileged_bpf_disabled";
    match facts.unprivileged_bpf_disabled {
        Some(level) => Need::ok(what, format!("{level}, which does not concern CAP_BPF")),
        None => Need::ok(what, "not in this kernel"),
    }
}

fn memory_lock(facts: &Facts) -> Need {
    let limit = match facts.memory_lock {
        None => "unknown".to_owned(),
        Some(u64::MAX) => "unlimited".to_owned(),
        Some(bytes) => format!("{bytes} bytes"),
    };
    Need::ok("locked memory limit", format!("{limit}; from Linux 5.11 on it does not count what BPF takes"))
}
