//! Alerts: said where a process passes a limit, once, with the command that is run then, and never at the trace's cost.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::choosing::Named;
use crate::harness::tracer::path_str;
use crate::harness::{Finished, Tracer, Victim, build, leaktrace, locks};
use crate::holder::is_holder;
use crate::lifecycle::eventually;

/// A limit that 16 blocks of 64 KiB reach.
const LIMIT: [&str; 2] = ["--alert-bytes", "1M"];

/// What a command does that goes on until it is told to end: it says who it is, and sleeps.
const SLEEPER: &str = "sh -c 'echo sleeper $$; exec sleep 1000'";

/// The alerts in a text of messages.
fn alerts(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains("passes --alert-") || line.contains("passed --alert-")).collect()
}

/// Waits for so many reports at intervals, in the time of which there is a look at least.
fn looks(tracer: &Tracer, reports: usize) {
    for _ in 0..reports {
        tracer.wait_for_output("a report", |line| line.contains("tracing goes on"));
    }
}

/// Waits for the words of [`SLEEPER`]; the process.
fn sleeper(tracer: &Tracer) -> Sleeper {
    let line = tracer.wait_for_message("a command that sleeps", |line| line.starts_with("sleeper "));
    Sleeper(line["sleeper ".len()..].parse().unwrap())
}

/// A command that sleeps until the test is over.
struct Sleeper(u32);

impl Sleeper {
    fn sleeps(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/comm", self.0)).is_ok_and(|comm| comm == "sleep\n" || comm == "sh\n")
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0 as i32), Signal::SIGKILL);
    }
}

/// A directory with a blank and a quote in its name, and a shell of another name in it.
fn tools() -> (TempDir, PathBuf) {
    let directory = tempfile::Builder::new().prefix("the tools' ").tempdir().unwrap();
    let shell = directory.path().join("my shell");
    // By another program: a process that another thread forks might have it open for writing.
    assert!(Command::new("cp").arg("/bin/sh").arg(&shell).status().unwrap().success());
    (directory, shell)
}

/// The variables that a command has written into a file.
fn variables(file: &Path) -> HashMap<String, String> {
    let text = fs::read_to_string(file).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn a_process_that_passes_is_said_once_and_the_command_has_the_facts() {
    let mut puppet = Victim::puppet();
    let (pid, (directory, shell)) = (puppet.pid(), tools());
    let file = directory.path().join("env");
    let command = format!(
        r#""{}" -c 'env > "$1"; echo "$#: $2"; echo it ran $$' name "{}" 'a  b'"#,
        path_str(&shell),
        path_str(&file)
    );
    let tracer =
        Tracer::attach(&puppet, &[&LIMIT[..], &["-i", "1s", "--leak-check=no", "--on-alert", &command]].concat());
    puppet.tell("a a 65536 15");
    looks(&tracer, 2);
    puppet.tell("a a 65536 5");
    let said = tracer.wait_for_message("the alert", |line| line.contains("alert"));
    let words = format!("(pid {pid}) has 1.");
    assert!(said.starts_with("leaktrace: warning: ") && said.contains(&words), "{said}");
    assert!(said.ends_with(" MiB outstanding, which passes --alert-bytes 1.0 MiB"), "{said}");
    tracer.wait_for_message("the words", |line| line == "2: a  b");
    let ran = tracer.wait_for_message("the command", |line| line.starts_with("it ran "));
    let process = PathBuf::from(format!("/proc/{}", &ran["it ran ".len()..]));
    eventually("the command is reaped", || !process.exists());
    tracer.wait_for_output("it in a report", |line| line.contains(&words) && line.contains("s into the trace)"));
    looks(&tracer, 2);
    let finished = tracer.stop();
    let snapshot = finished.exact();
    assert_eq!(alerts(&finished.stderr).len(), 1, "{}", finished.stderr);
    assert_eq!(
        snapshot.warnings.iter().filter(|warning| warning.contains(&words)).count(),
        1,
        "{:?}",
        snapshot.warnings
    );
    assert_eq!(alerts(&finished.stdout).len(), 2, "in the next report and in the last:\n{}", finished.stdout);

    let variables = variables(&file);
    let number = |name: &str| variables[name].parse::<u64>().unwrap_or_else(|e| panic!("{name}: {e}: {variables:?}"));
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    let expected = [("ALERT", "bytes"), ("COMM", comm.trim_end()), ("EXE", path_str(&exe)), ("LIMIT", "1048576")];
    for (name, value) in expected {
        assert_eq!(variables[&format!("LEAKTRACE_{name}")], value, "{variables:?}");
    }
    assert_eq!(number("LEAKTRACE_PID"), u64::from(pid));
    assert!((16 * 65536..=20 * 65536).contains(&number("LEAKTRACE_OUTSTANDING_BYTES")), "{variables:?}");
    assert!(number("LEAKTRACE_ELAPSED_S") >= 1 && number("LEAKTRACE_RATE_BYTES_PER_S") > 0, "{variables:?}");
    assert!(variables.contains_key("PATH"), "the rest of the environment is there too: {variables:?}");
}

#[test]
fn a_process_that_stays_below_gives_none() {
    let mut puppet = Victim::puppet();
    let command = [&LIMIT[..], &["--alert-rate", "1M", "-i", "1s", "--on-alert", "echo it ran"]].concat();
    let tracer = Tracer::attach(&puppet, &command);
    puppet.tell("a a 65536 15");
    puppet.tell("a b 65535 1");
    looks(&tracer, 3);
    let finished = tracer.stop();
    finished.exact();
    assert!(!finished.stderr.contains("--alert-") && !finished.stderr.contains("it ran"), "{}", finished.stderr);
    assert!(!finished.stdout.contains("--alert-"), "{}", finished.stdout);
}

#[test]
fn what_a_process_held_for_a_moment_counts_also_where_it_has_ended() {
    let growing = build::victim("growing.c");
    // Three lives, each shorter than the time between two looks, the last of them up to the trace's end.
    let script = format!("for i in 1 2 3; do {} run 2000000; done; exit 7", path_str(&growing));
    let options = [&LIMIT[..], &["--on-alert", "sh -c 'echo it ran for $LEAKTRACE_OUTSTANDING_BYTES'", "--"]].concat();
    let finished = Tracer::start_unready(&[&options[..], &["sh", "-c", &script]].concat()).wait();
    assert_eq!(finished.status.code(), Some(7), "the command's own:\n{}", finished.stderr);
    let said = alerts(&finished.stderr);
    assert_eq!(said.len(), 3, "{}", finished.stderr);
    assert!(said.iter().all(|line| line.contains(" 1.9 MiB outstanding")), "{said:?}");
    assert_eq!(finished.stderr.matches("it ran for 2000000\n").count(), 3, "{}", finished.stderr);
    assert_eq!(finished.snapshot().warnings.iter().filter(|warning| warning.contains("--alert-bytes")).count(), 3);

    let mut puppet = Victim::puppet();
    let tracer = Tracer::attach(&puppet, &LIMIT);
    puppet.tell("a a 2000000 1");
    puppet.tell("f a 1");
    tracer.wait_for_message("the alert", |line| line.contains("outstanding, which passe"));
    tracer.stop().exact();
}

#[test]
fn a_steady_leak_passes_the_rate_and_one_large_allocation_does_not() {
    let mut steady = Victim::start("growing.c", &["0", "200000", "40", "1000000"]);
    let mut large = Victim::start("growing.c", &["1000000000"]);
    let pids = format!("{},{}", steady.pid(), large.pid());
    let command = "sh -c 'echo $LEAKTRACE_ALERT $LEAKTRACE_PID $LEAKTRACE_LIMIT $LEAKTRACE_RATE_BYTES_PER_S'";
    let tracer = Tracer::start(&["-p", &pids, "--leak-check=no", "--alert-rate", "1M/s", "--on-alert", command]);
    steady.go();
    large.work();
    let begins = format!("rate {} 1048576 ", steady.pid());
    let line = tracer.wait_for_message("the command", |line| line.starts_with("rate "));
    let rate = line.strip_prefix(&begins).and_then(|rate| rate.parse::<u64>().ok());
    // Two hundred kilobytes in forty milliseconds or more.
    assert!(rate.is_some_and(|rate| (1 << 20..=5_100_000).contains(&rate)), "{line}, not {begins}");
    let finished = tracer.stop();
    let said = alerts(&finished.stderr);
    assert_eq!(said.len(), 1, "{}", finished.stderr);
    assert!(said[0].contains(&format!("(pid {}) has grown by ", steady.pid())), "{said:?}");
    assert!(said[0].contains(" s, which passes --alert-rate 1.0 MiB/s; "), "{said:?}");
    assert_eq!(finished.exact().through(large.pid(), "leak_first").outstanding(), (1_000_000_000, 1));
    large.finish();
}

/// A pool of constant size whose blocks are replaced one after the other, traced from some time on.
#[test]
fn blocks_from_before_the_trace_that_are_replaced_are_no_growth() {
    let mut puppet = Victim::puppet();
    puppet.tell("a a 65536 3000");
    let options = ["-i", "1s", "--leak-check=no", "--alert-rate", "100k", "--on-alert", "echo it ran"];
    let tracer = Tracer::attach(&puppet, &options);
    for _ in 0..13 {
        for _ in 0..10 {
            puppet.tell("f a 5");
            puppet.tell("a b 65536 5");
        }
        looks(&tracer, 1);
    }
    tracer.wait_for_message("why there is none", |line| line.contains("--alert-rate cannot tell how it grows"));
    let finished = tracer.stop();
    assert_eq!(finished.exact().through(puppet.pid(), "leak_b").outstanding(), (13 * 50 * 65536, 13 * 50));
    assert_eq!(alerts(&finished.stderr), [""; 0]);
    assert!(!finished.stderr.contains("it ran"), "{}", finished.stderr);
    assert_eq!(finished.stderr.matches("cannot tell how it grows").count(), 1, "{}", finished.stderr);
}

#[test]
fn no_alert_is_repeated_within_five_minutes() {
    let mut puppet = Victim::puppet();
    let options = [&LIMIT[..], &["-i", "1s", "--leak-check=no", "--on-alert", "echo it ran"]].concat();
    let tracer = Tracer::attach(&puppet, &options);
    for round in 0..3 {
        puppet.tell("a a 65536 17");
        if round == 0 {
            tracer.wait_for_message("the command", |line| line == "it ran");
        }
        looks(&tracer, 2);
        puppet.tell("f a 17");
        looks(&tracer, 2);
    }
    let finished = tracer.stop();
    finished.exact();
    assert_eq!(alerts(&finished.stderr).len(), 1, "{}", finished.stderr);
    assert_eq!(finished.stderr.matches("it ran\n").count(), 1, "{}", finished.stderr);
}

#[test]
fn a_command_that_does_not_end_delays_nothing_and_goes_on() {
    let mut puppet = Victim::puppet();
    let options = [&LIMIT[..], &["-i", "1s", "--leak-check=no", "--on-alert", SLEEPER]].concat();
    let mut tracer = Tracer::attach(&puppet, &options);
    puppet.tell("a a 2000000 1");
    let sleeper = sleeper(&tracer);
    looks(&tracer, 2);
    puppet.tell("a b 100 3");
    tracer.signal(Signal::SIGINT);
    assert!(tracer.wait_status().success());
    assert!(sleeper.sleeps(), "it was ended with the trace");
    // It has standard error open.
    drop(sleeper);
    let snapshot = tracer.wait().exact();
    assert_eq!(snapshot.through(puppet.pid(), "leak_b").outstanding(), (300, 3));
}

#[test]
fn a_command_that_ignores_signals_and_floods_standard_output_delays_nothing() {
    let mut puppet = Victim::puppet();
    let flood = r#"sh -c 'trap "" HUP INT TERM PIPE; echo sleeper $$; i=0; while [ $i -lt 20000 ]; do echo flood; i=$((i+1)); done; exec sleep 1000'"#;
    let options = [&LIMIT[..], &["-i", "1s", "--leak-check=no", "--on-alert", flood]].concat();
    let mut tracer = Tracer::attach(&puppet, &options);
    puppet.tell("a a 2000000 1");
    let sleeper = sleeper(&tracer);
    looks(&tracer, 2);
    tracer.signal(Signal::SIGINT);
    assert!(tracer.wait_status().success());
    drop(sleeper);
    let finished = tracer.wait();
    finished.exact();
    assert!(!finished.stdout.contains("flood"), "standard output has reports only");
}

#[test]
fn a_command_that_cannot_run_or_fails_is_a_warning_and_no_exit_status() {
    let growing = build::victim("growing.c");
    let (directory, _) = tools();
    let unformatted = directory.path().join("unformatted");
    fs::write(&unformatted, b"\x7fELF and nothing more").unwrap();
    assert!(Command::new("chmod").arg("755").arg(&unformatted).status().unwrap().success());
    let unformatted = format!("\"{}\"", path_str(&unformatted));
    let trace = |command: &str| {
        let options = [&LIMIT[..], &["--on-alert", command, "--", path_str(&growing), "run", "2000000"]].concat();
        let finished = Tracer::start_unready(&options).wait();
        finished.exact();
        finished
    };
    for (command, words) in [
        ("/no/such/program", "did not run: no such command: `/no/such/program`"),
        ("no-such-program x", "did not run: command not found: `no-such-program`"),
        (unformatted.as_str(), "it is not in a format that this machine executes"),
        ("sh -c 'exit 3'", "ended: exit status 3"),
        ("sh -c 'kill -9 $$'", "ended: killed by SIGKILL"),
    ] {
        let finished = trace(command);
        let warnings: Vec<_> =
            finished.stderr.lines().filter(|line| line.contains("the command of --on-alert for ")).collect();
        assert_eq!(warnings.len(), 1, "{command}:\n{}", finished.stderr);
        assert!(warnings[0].starts_with("leaktrace: warning: ") && warnings[0].contains(words), "{}", warnings[0]);
    }
    // Known from the beginning.
    let finished = trace("/no/such/program");
    let first = finished.stderr.find("--on-alert: no such command: `/no/such/program`\n");
    assert!(first < finished.stderr.find("leaktrace: tracing") && first.is_some(), "{}", finished.stderr);
}

#[test]
fn a_command_is_started_as_leaktrace_was_and_holds_nothing_of_it() {
    let growing = build::victim("growing.c");
    let fds = "for fd in $(seq 0 99); do [ -e /proc/$$/fd/$fd ] && echo open $fd; done";
    let command = format!("sh -c 'ulimit -n; ulimit -Hn; grep Sig /proc/self/status; {fds}; cat; echo the end'");
    let tracer = leaktrace(["--leak-check=no", "--alert-bytes", "1M", "--on-alert", &command, "--"]);
    // The limit is lower than that which leaktrace takes, SIGUSR2 is ignored, and a descriptor is passed on.
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -Sn 256; trap '' USR2; exec 9</dev/null; exec \"$0\" \"$@\""]).arg(tracer.get_program());
    shell.args(tracer.get_args()).arg(&growing).args(["run", "2000000"]);
    tracer.get_envs().filter_map(|(name, value)| Some((name, value?))).for_each(|(name, value)| {
        shell.env(name, value);
    });
    let finished = Finished::of(shell.stdin(std::process::Stdio::null()));
    finished.assert_success();
    let own = |name: &str| {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        u64::from_str_radix(&line, 16).unwrap()
    };
    let bit = |signal: Signal| 1 << (signal as u64 - 1);
    // The tests' own runtime ignores SIGPIPE, and gives what it starts the default.
    let ignored = own("SigIgn:") & !bit(Signal::SIGPIPE) | bit(Signal::SIGUSR2);
    let theirs = finished.stderr.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    // The C library's own signals are ignored or not as it likes.
    let usual = |signals: u64| signals & !(3 << 31);
    assert_eq!(usual(u64::from_str_radix(theirs, 16).unwrap()), usual(ignored), "{}", finished.stderr);
    let text = &finished.stderr;
    assert!(text.contains("\n256\n"), "the limit of files:\n{text}");
    let (_, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    assert!(text.contains(&format!("\n{hard}\n")), "{text}");
    assert!(text.contains("SigBlk:\t0000000000000000\n"), "{text}");
    let open: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("open ")).collect();
    assert_eq!(open, ["0", "1", "2"], "{text}");
    assert!(text.contains("the end\n"), "standard input is empty:\n{text}");
    assert!(!finished.stdout.contains("the end"), "{}", finished.stdout);
}

#[test]
fn no_more_than_eight_commands_run_at_a_time_and_the_others_are_said() {
    let mut victims: Vec<Victim> = (0..11).map(|_| Victim::puppet()).collect();
    let pids: Vec<String> = victims.iter().map(|victim| victim.pid().to_string()).collect();
    let options = ["-p", &pids.join(","), "-i", "1s", "--leak-check=no", "--on-alert", SLEEPER];
    let mut tracer = Tracer::start(&[&LIMIT[..], &options[..]].concat());
    for victim in &mut victims {
        victim.tell("a a 2000000 1");
    }
    let sleepers: Vec<Sleeper> = (0..8).map(|_| sleeper(&tracer)).collect();
    looks(&tracer, 2);
    tracer.signal(Signal::SIGINT);
    assert!(tracer.wait_status().success());
    assert!(sleepers.iter().all(Sleeper::sleeps));
    drop(sleepers);
    let finished = tracer.wait();
    let said = alerts(&finished.stderr);
    assert_eq!(said.len(), 11, "{}", finished.stderr);
    let not_run =
        said.iter().filter(|line| line.ends_with("; its command is not run: 8 run already, which is the most"));
    assert_eq!(not_run.count(), 3, "{said:?}");
    assert_eq!(finished.stderr.matches("sleeper ").count(), 8);
    assert_eq!(finished.exact().warnings.iter().filter(|warning| warning.contains("--alert-bytes")).count(), 11);
}

/// Here commands are chosen by name as whatever passes, and would raise alerts about themselves without end.
#[test]
fn what_commands_hold_themselves_is_no_alert() {
    let _machine = locks::whole_machine();
    let name = format!("lt-{}-grow", std::process::id());
    let named = Named::new("growing.c", &name);
    let mut victim = named.start(&["2000000"]);
    let growing = path_str(&named.path);
    // The command itself, and one that it starts and that outlives the next looks.
    let command = format!("sh -c '{growing} run 3000000; {growing} run 4000000 1 1000 3; exec {growing} run 5000000'");
    let options = [&LIMIT[..], &["--comm", &name, "-i", "1s", "--on-alert", &command]].concat();
    let tracer = Tracer::start(&options);
    victim.work();
    tracer.wait_for_message("the command's end", |line| line.contains("\"bytes\":5000000"));
    looks(&tracer, 2);
    let finished = tracer.stop();
    let snapshot = finished.snapshot();
    let said = alerts(&finished.stderr);
    assert_eq!(said.len(), 1, "{}", finished.stderr);
    assert!(said[0].contains(&format!("(pid {})", victim.pid())), "{said:?}");
    // Or else the test would show nothing.
    for bytes in [3_000_000, 5_000_000] {
        assert!(
            snapshot.processes.iter().any(|process| process.peak_bytes >= bytes && process.peak_bytes < bytes + 9999)
        );
    }
    victim.finish();
}

#[test]
fn in_a_sample_the_bytes_are_estimates_and_said_to_be() {
    let mut puppet = Victim::puppet();
    let command = "sh -c 'echo bytes $LEAKTRACE_OUTSTANDING_BYTES'";
    let tracer = Tracer::attach(&puppet, &[&LIMIT[..], &["--sample-bytes", "64k", "--on-alert", command]].concat());
    // By blocks that are all hit, so that the estimate is nearly exact.
    puppet.tell("a a 4194304 4");
    tracer.wait_for_message("the alert", |line| line.contains("MiB outstanding") && line.contains(" an estimated "));
    let line = tracer.wait_for_message("the command", |line| line.starts_with("bytes "));
    let bytes: u64 = line["bytes ".len()..].parse().unwrap();
    assert!((4 << 20..17 << 20).contains(&bytes), "{line}");
    tracer.stop().assert_success();
}

#[test]
fn a_tracer_that_is_killed_leaves_its_command_alone_and_no_probes() {
    let mut puppet = Victim::puppet();
    let mut tracer = Tracer::attach(&puppet, &[&LIMIT[..], &["--on-alert", SLEEPER]].concat());
    puppet.tell("a a 2000000 1");
    let sleeper = sleeper(&tracer);
    let holder = holder_of(tracer.pid());
    tracer.signal(Signal::SIGKILL);
    assert_eq!(tracer.wait_status().signal(), Some(9));
    // It removes the probes before it ends, and knows of our end by a descriptor that the command must not have.
    eventually("the holder has ended", || !is_holder(holder));
    assert!(sleeper.sleeps());
    drop(sleeper);
    puppet.tell("a a 100 1");
}

/// The process that holds a tracer's probes.
fn holder_of(tracer: u32) -> u32 {
    let of = format!("of {tracer}");
    let mut processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_it = |pid: &u32| {
        is_holder(*pid) && fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&of))
    };
    processes.find(is_it).expect("it has a holder")
}
