//! Every verdict, from made-up facts.

use super::needs::all;
use super::*;
use crate::host::features::Tried;

/// A machine that lacks nothing: Debian's 6.18, root.
fn healthy() -> Facts {
    Facts {
        architecture: "x86_64",
        release: "6.18.9-amd64".to_owned(),
        version: (6, 18),
        uprobes: true,
        program: Tried::Works,
        attachment: Tried::Works,
        ring_buffer: Tried::Works,
        multi: true,
        finds_mappings: true,
        sessions: true,
        btf: true,
        capabilities: Some(0x1ff_ffff_ffff),
        first_user_namespace: Some(true),
        first_pid_namespace: Some(true),
        perf_event_paranoid: Some(2),
        unprivileged_bpf_disabled: Some(2),
        jit: Some(1),
        ptrace_scope: Some(1),
        lockdown: Some("none".to_owned()),
        memory_lock: Some(8 << 20),
        seccomp: Some(false),
        container: None,
        filters_see_return_probes: Some(false),
        marks_written_pages: Some(true),
    }
}

fn need(facts: &Facts, what: &str) -> Need {
    all(facts).into_iter().find(|need| need.what == what).unwrap()
}

/// Checks one need, and whether a trace is refused for it.
fn check(facts: &Facts, what: &str, verdict: Verdict, refused: bool, says: &str) {
    let need = need(facts, what);
    assert_eq!(need.verdict, verdict, "{need}");
    assert!(need.to_string().contains(says), "{need}");
    let problem = first_problem(facts).err().map(|problem| problem.to_string());
    assert_eq!(problem.is_some(), refused, "{problem:?}");
    if let Some(problem) = problem {
        assert!(problem.contains(says), "{problem}");
        assert_eq!(problem.lines().count(), 1);
    }
    assert!(need.verdict == Verdict::Ok || !need.next.is_empty(), "a next step is named: {need}");
}

#[test]
fn a_healthy_machine_lacks_nothing() {
    for need in all(&healthy()) {
        assert_eq!(need.verdict, Verdict::Ok, "{need}");
        assert!(need.to_string().starts_with("ok       "), "{need}");
        assert_eq!(need.next, "", "{need}");
    }
    assert_eq!(first_problem(&healthy()), Ok(()));
}

#[test]
fn lines_have_the_documented_form() {
    let facts = Facts { version: (5, 10), release: "5.10.0-30-amd64".to_owned(), ..healthy() };
    assert_eq!(
        need(&facts, "kernel").to_string(),
        "missing  kernel: Linux 5.10.0-30-amd64; leaktrace needs Linux 6.1 or later, and before 5.15 uprobes have no \
         cookies: boot a newer kernel"
    );
}

#[test]
fn kernels_that_are_not_tested_are_refused_unless_the_user_takes_the_risk() {
    for (version, refused, forced) in [
        ((4, 19), true, true),
        ((5, 14), true, true),
        ((5, 15), true, false),
        ((6, 0), true, false),
        ((6, 1), false, false),
        ((7, 2), false, false),
    ] {
        let facts = Facts { version, ..healthy() };
        let verdict = if refused { Verdict::Missing } else { Verdict::Ok };
        check(&facts, "kernel", verdict, refused, if refused { "boot a newer kernel" } else { "Linux" });
        assert_eq!(first_problem(&taking_risks(facts, true)).is_err(), forced, "{version:?}");
    }
    check(&Facts { version: (0, 0), ..healthy() }, "kernel", Verdict::Unknown, false, "6.1");
}

#[test]
fn architectures_are_told_apart() {
    check(&Facts { architecture: "aarch64", ..healthy() }, "architecture", Verdict::Unknown, false, "aarch64");
    check(&Facts { architecture: "riscv64", ..healthy() }, "architecture", Verdict::Missing, true, "x86_64");
}

#[test]
fn a_kernel_without_uprobes_is_refused() {
    let facts = Facts { uprobes: false, attachment: Tried::Not, ..healthy() };
    check(&facts, "uprobes", Verdict::Missing, true, "CONFIG_UPROBE_EVENTS");
}

#[test]
fn a_kernel_without_bpf_is_refused() {
    let facts = Facts { program: Tried::Refused(libc::ENOSYS), ..healthy() };
    check(&facts, "BPF programs", Verdict::Missing, true, "CONFIG_BPF_SYSCALL");
    let facts = Facts { attachment: Tried::Refused(libc::EINVAL), ..healthy() };
    check(&facts, "probes", Verdict::Missing, true, "Invalid argument");
    let facts = Facts { ring_buffer: Tried::Refused(libc::EINVAL), ..healthy() };
    check(&facts, "ring buffers", Verdict::Missing, true, "Invalid argument");
}

#[test]
fn a_user_without_rights_is_told_which_and_to_use_sudo() {
    let refused = Tried::Refused(libc::EPERM);
    let facts = Facts { capabilities: Some(0), program: refused, ring_buffer: refused, ..healthy() };
    check(&facts, "capabilities", Verdict::Missing, true, "CAP_BPF (to load programs), CAP_PERFMON");
    let facts = Facts { attachment: Tried::Not, multi: false, sessions: false, ..facts };
    assert_eq!(need(&facts, "probes").verdict, Verdict::Unknown);
    assert_eq!(need(&facts, "multi links and uprobe sessions").verdict, Verdict::Unknown);
    check(&facts, "perf_event_paranoid", Verdict::Missing, true, "run leaktrace as root");
    assert!(first_problem(&facts).unwrap_err().to_string().contains("sudo"));
}

#[test]
fn the_least_set_of_capabilities_is_enough() {
    // CAP_SYS_PTRACE 19, CAP_PERFMON 38, CAP_BPF 39, CAP_CHECKPOINT_RESTORE 40.
    let least = [19, 38, 39, 40].iter().map(|number| 1 << number).sum();
    check(&Facts { capabilities: Some(least), ..healthy() }, "capabilities", Verdict::Ok, false, "CAP_BPF");
    for number in [19, 38, 39, 40] {
        let facts = Facts { capabilities: Some(least & !(1 << number)), ..healthy() };
        check(&facts, "capabilities", Verdict::Missing, true, "without CAP_");
    }
    // CAP_SYS_ADMIN 21 stands for all but CAP_SYS_PTRACE.
    let old = 1 << 21;
    check(&Facts { capabilities: Some(old), ..healthy() }, "capabilities", Verdict::Missing, true, "CAP_SYS_PTRACE");
    check(&Facts { capabilities: Some(old | 1 << 19), ..healthy() }, "capabilities", Verdict::Ok, false, "");
}

#[test]
fn namespaces_other_than_the_machines_are_refused() {
    let facts = Facts { first_user_namespace: Some(false), ..healthy() };
    check(&facts, "user namespace", Verdict::Missing, true, "rootless container");
    let facts = Facts { first_pid_namespace: Some(false), container: Some("/.dockerenv"), ..healthy() };
    check(&facts, "pid namespace", Verdict::Missing, true, "--pid=host");
    check(&facts, "container", Verdict::Unknown, true, "--pid=host");
}

#[test]
fn what_keeps_root_from_loading_programs_is_named() {
    let denied = Facts { program: Tried::Refused(libc::EPERM), ..healthy() };
    let locked = Facts { lockdown: Some("confidentiality".to_owned()), ..denied.clone() };
    check(&locked, "BPF programs", Verdict::Missing, true, "lockdown=none");
    check(&locked, "lockdown", Verdict::Unknown, true, "lockdown=");
    let filtered = Facts { seccomp: Some(true), ..denied.clone() };
    check(&filtered, "BPF programs", Verdict::Missing, true, "seccomp");
    check(&denied, "BPF programs", Verdict::Missing, true, "security module");
}

#[test]
fn what_only_makes_things_slower_or_narrower_is_no_refusal() {
    let facts = Facts { sessions: false, ..healthy() };
    check(&facts, "multi links and uprobe sessions", Verdict::Missing, false, "6.13");
    let facts = Facts { multi: false, sessions: false, ..healthy() };
    check(&facts, "multi links and uprobe sessions", Verdict::Missing, false, "perf events");
    let facts = Facts { finds_mappings: false, ..healthy() };
    check(&facts, "look-up of mappings", Verdict::Missing, false, "5.17");
    check(&Facts { btf: false, ..healthy() }, "BTF", Verdict::Missing, false, "sessions");
    let jit = "BPF just-in-time compiler";
    check(&Facts { jit: Some(0), ..healthy() }, jit, Verdict::Missing, false, "bpf_jit_enable=1");
    check(&Facts { jit: Some(2), ..healthy() }, jit, Verdict::Ok, false, "on");
    check(&Facts { jit: None, ..healthy() }, jit, Verdict::Unknown, false, "bpf_jit_enable");
    check(&Facts { container: Some("/.dockerenv"), ..healthy() }, "container", Verdict::Ok, false, "whole machine");
    check(&Facts { seccomp: Some(true), ..healthy() }, "container", Verdict::Unknown, false, "seccomp");
    check(&Facts { lockdown: Some("integrity".to_owned()), ..healthy() }, "lockdown", Verdict::Ok, false, "integrity");
    check(&Facts { lockdown: None, ..healthy() }, "lockdown", Verdict::Ok, false, "not in this kernel");
}

#[test]
fn kernels_that_show_return_probes_to_filters_are_named() {
    let what = "return probes under seccomp";
    let facts = Facts { filters_see_return_probes: Some(true), version: (6, 12), ..healthy() };
    check(&facts, what, Verdict::Missing, false, "kill");
    check(&Facts { filters_see_return_probes: None, ..healthy() }, what, Verdict::Unknown, false, "6.11 to 6.13");
}

#[test]
fn ptrace_scope_decides_over_commands_only() {
    let what = "holding a COMMAND";
    check(&Facts { ptrace_scope: Some(3), ..healthy() }, what, Verdict::Missing, false, "-p");
    check(&Facts { ptrace_scope: Some(2), ..healthy() }, what, Verdict::Ok, false, "");
    check(&Facts { ptrace_scope: None, ..healthy() }, what, Verdict::Ok, false, "");
    let facts = Facts { ptrace_scope: Some(2), capabilities: Some(0), ..healthy() };
    check(&facts, what, Verdict::Missing, true, "run leaktrace as root");
}

#[test]
fn limits_are_shown() {
    check(&healthy(), "locked memory limit", Verdict::Ok, false, "8388608 bytes");
    check(&Facts { memory_lock: Some(u64::MAX), ..healthy() }, "locked memory limit", Verdict::Ok, false, "unlimited");
    check(&healthy(), "perf_event_paranoid", Verdict::Ok, false, "2, which does not concern CAP_PERFMON");
    check(&healthy(), "unprivileged_bpf_disabled", Verdict::Ok, false, "2,");
}

#[test]
fn this_machine_passes_and_says_so_line_by_line() {
    let mut said = Vec::new();
    assert!(run(&mut said).unwrap(), "{}", String::from_utf8_lossy(&said));
    let said = String::from_utf8(said).unwrap();
    let [needs, ways, verdict] = said.split("\n\n").collect::<Vec<_>>()[..] else { panic!("{said}") };
    assert_eq!(verdict, "leaktrace can trace here\n");
    assert_eq!(ways.lines().count(), 5, "{ways}");
    assert_eq!(needs.lines().count(), all(&healthy()).len());
    for line in needs.lines() {
        assert!(["ok       ", "missing  ", "unknown  "].iter().any(|verdict| line.starts_with(verdict)), "{line}");
    }
    assert_eq!(preflight(false), Ok(()));
}

#[test]
fn a_kernel_that_does_not_mark_changed_pages_is_told_what_that_means() {
    let without = Facts { marks_written_pages: Some(false), ..healthy() };
    check(&without, "changed pages", Verdict::Missing, false, "no CONFIG_MEM_SOFT_DIRTY");
    check(&without, "changed pages", Verdict::Missing, false, "are at most probably lost");
    let unknown = Facts { marks_written_pages: None, ..healthy() };
    check(&unknown, "changed pages", Verdict::Unknown, false, "pagemap");
}
