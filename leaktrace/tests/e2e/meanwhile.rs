//! What happens while a report is being made: programs begin, are probed and traced as at any other time.

use std::os::fd::AsRawFd;
use std::process::{ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::build::{self, Recipe};
use crate::harness::lines::Lines;
use crate::harness::tracer::{path_str, wait_in_time};
use crate::harness::{Snapshot, Victim, leaktrace, locks};
use crate::lifecycle::eventually;

/// With an allocator in its own file.
const STATIC: Recipe = Recipe::new("newcomer", "outstanding.c", &["-static"]);
/// Files that are new to the tracer.
const FILES: usize = 12;

#[test]
fn programs_that_begin_while_a_large_report_is_made_are_traced_exactly() {
    let _machine = locks::whole_machine();
    let _calm = locks::calm();
    let directory = tempfile::tempdir().unwrap();
    let (many, json) = (directory.path().join("many_sites"), directory.path().join("snapshot.json"));
    build::copied(&build::victim("many_sites.c"), &many);
    let mut many = Victim::spawn("many_sites", Command::new(&many).arg("wait"));
    many.wait_until_ready();
    let mut child =
        leaktrace(["--comm", "many_sites", "--comm", "newcomer", "--interval", "100ms", "--top", "50000", "-vv"])
            .args(["--all-sites", "--json", path_str(&json)])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let messages = Lines::of("leaktrace's standard error", stderr);
    messages.wait_for("the line that tracing has begun", |line| line.starts_with("leaktrace: tracing"));
    let mut accounts = vec![many.work()];
    // Nobody reads it: the report cannot be done before somebody does.
    eventually("a report is longer than its pipe", || is_full(&stdout));
    let done = reports_done(&messages);

    let mut running: Vec<Victim> = Vec::new();
    for file in 0..FILES {
        let own = directory.path().join(file.to_string());
        std::fs::create_dir(&own).unwrap();
        let program = own.join("newcomer");
        build::copied(&STATIC.built(), &program);
        let start = |how| Victim::spawn("newcomer", Command::new(&program).args([how, "200"]));
        let mut newcomer = start("wait");
        // The file is new: the tracer says when it is probed.
        let probed = format!("{}: probed ", program.display());
        messages.wait_for("the word that it is probed", |line| line.contains(&probed));
        accounts.push(newcomer.work());
        running.push(newcomer);
        // From now on its processes are traced from their first allocation.
        let (status, account) = start("run").wait();
        assert!(status.success(), "{status}");
        accounts.push(account);
    }
    // Of a static program's own calls: its C library allocates before `main`.
    accounts.iter_mut().skip(1).for_each(|account| account.totals.clear());
    assert_eq!(reports_done(&messages), done, "the report was made meanwhile\n{}", messages.text());

    let mut output = Lines::of("leaktrace's standard output", stdout);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let status = wait_in_time(&mut child).expect("leaktrace ends");
    assert!(status.success(), "{status}\n{}", messages.text());
    assert!(output.finish().contains("leak_everywhere"), "no report");
    let snapshot = Snapshot::parse(&std::fs::read(&json).unwrap());
    // The first stacks of a program whose mappings are not known yet may be cut short.
    snapshot.assert_lossless_but(&["unwind_failed", "unwind_failures"]);
    snapshot.assert_consistent();
    for account in &accounts {
        snapshot.assert_equals(account);
    }
    let sites = snapshot.sites.iter().filter(|site| site.passes("leak_everywhere")).count();
    assert_eq!(sites, 50_000);
    running.into_iter().for_each(Victim::finish);
    many.finish();
}

/// Reports that are done, as `-v` tells.
fn reports_done(messages: &Lines) -> usize {
    messages.text().lines().filter(|line| line.starts_with("leaktrace: report ") && line.contains(" took ")).count()
}

/// Whether a pipe takes no more: it has 16 pages.
fn is_full(pipe: &ChildStdout) -> bool {
    let mut unread: libc::c_int = 0;
    // SAFETY: the descriptor is open, and FIONREAD writes an int.
    let result = unsafe { libc::ioctl(pipe.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    unread > 15 * 4096
}
