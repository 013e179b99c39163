//! A held command finds everything as if it ran alone, and is signalled as if it ran alone.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use leaktrace::process::launch::Ending;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::support::{Fifo, Programs, await_state, await_tracer, hold, reached, role, see_through, wait_for, words};

const ROLE: &str = "likeness::a_role_sees_its_command_through";

#[test]
fn a_role_sees_its_command_through() {
    if super::support::play().is_some() {
        return;
    }
    wait_for(async {
        let (mut launched, held) = hold(&words(["sh", "-c", "exit 5"])).await;
        held.release();
        assert_eq!(see_through(&mut launched).await, (vec!["exiting"], Ending::Exited(5)));
    });
}

/// Checks that a program says the same in both ways, and gives it.
fn the_same([direct, held]: [String; 2]) -> String {
    let only = |one: &str, other: &str| {
        one.lines().filter(|line| !other.lines().any(|same| same == *line)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(only(&held, &direct), only(&direct, &held), "held against direct");
    assert_eq!(held, direct, "also in order");
    held
}

/// The signals that a program says it ignores, bit n-1 for signal n.
fn ignored(said: &str) -> u64 {
    let line = said.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap()
}

/// What `program` says when a shell that has first done `preparation` executes it, directly and through a role.
fn both_ways(programs: &Programs, preparation: &str, program: &Path) -> [String; 2] {
    let input = programs.path("input");
    fs::write(&input, "first\nsecond\n").unwrap();
    let words = [program.to_str().unwrap(), "one", "", "with space"];
    ["direct", "held"].map(|way| {
        let output = programs.path(way);
        File::create(&output).unwrap();
        let mut command = role(ROLE, "to-end", &words, &output);
        let shell: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let environment: Vec<_> =
            command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        command = Command::new("sh");
        command.arg("-c").arg(format!("{preparation}; exec \"$@\"")).arg("sh");
        if way == "direct" {
            command.args(words);
        } else {
            command.args(&shell[3..]);
        }
        // Not the machine's whole environment, which a failure would print.
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("EMPTY", "");
        command.envs(environment).env("LEAKTRACE_TEST_OUTPUT", &output).current_dir(programs.path("")).process_group(0);
        command.stdin(File::open(&input).unwrap());
        command.stdout(match way {
            "direct" => Stdio::from(File::options().append(true).open(&output).unwrap()),
            _ => Stdio::null(),
        });
        let child = command.spawn().unwrap();
        let group = child.id().to_string();
        let status = child.wait_with_output().unwrap().status;
        assert!(status.success(), "{way}: {status}");
        let said = fs::read_to_string(&output).unwrap();
        assert!(said.contains("stdin second"), "{said}");
        // Each way has a process group and an output of its own.
        said.replace(&format!("group {group} "), "group OWN ").replace(output.to_str().unwrap(), "OUTPUT")
    })
}

#[test]
fn the_surroundings_are_as_without_us() {
    let programs = Programs::new();
    let program = programs.build("cc", "identity.c", "identity", &[]);
    let held = the_same(both_ways(&programs, "umask 027; ulimit -n 200", &program));
    assert!(held.contains("group OWN ") && held.contains("files 200 200 umask 27"), "{held}");
    assert_eq!(ignored(&held) & 1 << (libc::SIGPIPE - 1), 0, "SIGPIPE is not ignored: {held}");
}

#[test]
fn ignored_signals_stay_ignored_and_only_those() {
    let programs = Programs::new();
    let program = programs.build("cc", "identity.c", "identity", &[]);
    // A shell's own trap does not reach SIGCHLD.
    let ignoring = "trap '' HUP INT PIPE TSTP; set -- env --ignore-signal=CHLD \"$@\"";
    let held = the_same(both_ways(&programs, ignoring, &program));
    // SIGHUP 1, SIGINT 2, SIGPIPE 13, SIGCHLD 17, SIGTSTP 20.
    let mask: u64 = [1, 2, 13, 17, 20].iter().map(|signal| 1 << (signal - 1)).sum();
    assert_eq!(ignored(&held) & mask, mask, "{held}");
}

#[test]
fn a_setuid_program_gets_its_user() {
    // Temporary directories are often on file systems that lend nobody another's rights.
    let programs = Programs::new_in(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let program = programs.build("cc", "identity.c", "identity", &[]);
    std::os::unix::fs::chown(&program, Some(65534), Some(65534)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    let held = the_same(both_ways(&programs, ":", &program));
    assert!(held.contains("ids 0 65534 0 0"), "{held}");
}

#[test]
fn a_program_that_may_not_be_read_runs() {
    let programs = Programs::new();
    let program = programs.build("cc", "identity.c", "identity", &[]);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o111)).unwrap();
    the_same(both_ways(&programs, ":", &program));
}

#[test]
fn signals_arrive_with_what_was_sent_along() {
    let programs = Programs::new();
    let program = programs.build("cc", "signals.c", "signals", &[]);
    let mut output = Fifo::new(programs.path("output"));
    let command = words(["sh", "-c", "exec \"$0\" >\"$1\"", program.to_str().unwrap(), output.path.to_str().unwrap()]);
    wait_for(async {
        let (mut launched, held) = hold(&command).await;
        held.release();
        let leaktrace::process::launch::Event::Held(held) = launched.next_event().await else { panic!("not held") };
        held.release();
        assert_eq!(output.line(), "ready");
        launched.signal(libc::SIGUSR1).unwrap();
        assert_eq!(output.line(), format!("{} 0 0", libc::SIGUSR1));
        let real_time = libc::SIGRTMIN() + 3;
        for value in [11, 12, 13] {
            let value = libc::sigval { sival_ptr: value as *mut libc::c_void };
            // SAFETY: plain numbers, to a process that is ours.
            assert_eq!(unsafe { libc::sigqueue(launched.pid().0 as i32, real_time, value) }, 0);
        }
        for value in [11, 12, 13] {
            assert_eq!(output.line(), format!("{real_time} 1 {value}"), "queued, in order");
        }
        launched.signal(libc::SIGTERM).unwrap();
        assert_eq!(output.line(), "15 0 0");
        assert_eq!(see_through(&mut launched).await, (vec!["exiting"], Ending::Exited(0)));
    });
}

#[test]
fn a_stop_by_pid_lasts_until_continued() {
    let programs = Programs::new();
    let program = programs.build("cc", "signals.c", "signals", &[]);
    let mut output = Fifo::new(programs.path("output"));
    // In a process group of its own: where nobody could continue a group, as in one that a daemon started, the kernel
    // does not let SIGTSTP stop it.
    let own_group = "setpgrp; open(STDOUT, '>', $ARGV[1]) or die; exec $ARGV[0]";
    let command = words(["perl", "-e", own_group, program.to_str().unwrap(), output.path.to_str().unwrap()]);
    wait_for(async {
        let (mut launched, held) = hold(&command).await;
        held.release();
        let leaktrace::process::launch::Event::Held(held) = launched.next_event().await else { panic!("not held") };
        held.release();
        assert_eq!(output.line(), "ready");
        for stop in [libc::SIGSTOP, libc::SIGTSTP] {
            launched.signal(stop).unwrap();
            await_state(launched.pid().0, "tT");
            launched.signal(libc::SIGUSR1).unwrap();
            assert!(output.is_empty(), "a stopped program handles nothing");
            launched.signal(libc::SIGCONT).unwrap();
            let mut said = [output.line(), output.line()];
            said.sort();
            assert_eq!(said, ["10 0 0", "18 0 0"], "SIGUSR1 and SIGCONT");
        }
        launched.signal(libc::SIGTERM).unwrap();
        assert_eq!(see_through(&mut launched).await.1, Ending::Exited(0));
    });
}

#[test]
fn the_terminals_stop_stops_both_and_the_shells_word_continues_both() {
    let programs = Programs::new();
    let program = programs.build("cc", "signals.c", "signals", &[]);
    let mut output = Fifo::new(programs.path("output"));
    let mut role = role(ROLE, "released", &[program.to_str().unwrap()], &output.path);
    let mut role = role.process_group(0).spawn().unwrap();
    let command = reached(&mut role);
    let group = Pid::from_raw(role.id() as i32);
    assert_eq!(output.line(), "ready");
    // As a shell waits for its job; the first time it continues the whole job, the second time only what it started.
    for whole in [true, false] {
        killpg(group, Signal::SIGTSTP).unwrap();
        assert_eq!(waitpid(group, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(group, Signal::SIGSTOP)));
        // Stopped, and not by tracing.
        await_state(command, "T");
        if whole { killpg(group, Signal::SIGCONT) } else { kill(group, Signal::SIGCONT) }.unwrap();
        assert_eq!(waitpid(group, Some(WaitPidFlag::WCONTINUED)), Ok(WaitStatus::Continued(group)));
        assert_eq!(output.line(), "18 0 0", "SIGCONT reached the command");
        await_tracer(command);
    }
    kill(Pid::from_raw(command as i32), Signal::SIGTERM).unwrap();
    assert_eq!(role.wait().unwrap().code(), Some(0));
}

#[test]
fn where_ptrace_is_denied_one_line_says_so() {
    let programs = Programs::new();
    let notes = programs.notes();
    let mut role = role(ROLE, "to-end", &["true"], &notes);
    role.stderr(Stdio::piped());
    // SAFETY: only system calls on memory of this frame.
    unsafe { role.pre_exec(deny_ptrace) };
    let output = role.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("ptrace is refused") && said.contains("-p"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// Installs a seccomp filter under which ptrace(2) fails with EPERM, as container runtimes do.
fn deny_ptrace() -> std::io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let filter = [
        // The number of the system call, at offset 0 of struct seccomp_data.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            jt: 0,
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_ptrace as u32)
        },
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program lives through the call, which copies it.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
