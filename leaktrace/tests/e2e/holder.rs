//! The process that sets probes and holds them: whatever becomes of it or of the tracer, no target keeps a breakpoint.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use nix::unistd::Pid;

use crate::harness::build::{self, Recipe};
use crate::harness::memory::{Code, breakpoints};
use crate::harness::tracer::path_str;
use crate::harness::{DEADLINE, Tracer, Victim, leaktrace, locks};
use crate::lifecycle::{children, eventually};

/// A dynamic linker that nobody else has.
const LINKER: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/holder-linker");
const SLEEPING: Recipe = Recipe::new(
    "holder-sleeping",
    "sleeping.c",
    &[concat!("-Wl,--dynamic-linker=", env!("CARGO_TARGET_TMPDIR"), "/holder-linker")],
);

/// The process that holds a tracer's probes.
fn holder(tracer: u32) -> Option<u32> {
    children(tracer).into_iter().find(|child| is_holder(*child))
}

/// Whether a process is a holder of probes.
pub fn is_holder(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "probe-holder\n")
}

/// Sleeping processes that share a C library which nobody else has.
struct Crowd(Vec<Child>);

impl Crowd {
    fn start(library: &Path, size: usize) -> Self {
        let mut command = Command::new("/usr/bin/sleep");
        Self::of(command.arg("1000").env("LD_LIBRARY_PATH", library), size)
    }

    /// Of processes that this starts, each of which sleeps.
    fn of(command: &mut Command, size: usize) -> Self {
        let command = command.stdout(Stdio::null());
        let crowd = Self((0..size).map(|_| command.spawn().unwrap()).collect());
        for process in &crowd.0 {
            let waits = || std::fs::read_to_string(format!("/proc/{}/wchan", process.id())).unwrap();
            eventually("it sleeps", || waits().contains("nanosleep"));
        }
        crowd
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for process in &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Probes take the kernel a while in so many processes.
const CROWD: usize = 300;
/// How often it is tried to end the tracer meanwhile.
const ROUNDS: usize = 20;

#[test]
fn a_tracer_that_is_killed_while_probes_go_in_leaves_none() {
    let _machine = locks::no_system_wide_trace();
    let owner = Victim::start_with_own_libc("idle.c", &[]);
    let crowd = Crowd::start(owner.own_libc(), CROWD);
    let library = owner.own_libc().join("libc.so.6");
    let code: Vec<Code> = crowd.0.iter().map(|process| Code::of(process.id(), path_str(&library))).collect();
    let (first, last) = (code.first().unwrap(), code.last().unwrap());
    for _ in 0..ROUNDS {
        let directory = tempfile::tempdir().unwrap();
        let mut command = leaktrace(["--", "/usr/bin/sleep", "1"]);
        let tracer = Tracer::spawn(command.env("LD_LIBRARY_PATH", owner.own_libc()), directory);
        let end = Instant::now() + DEADLINE;
        // The kernel goes from process to process, in an order of its own.
        let mut reached = (false, false);
        while reached == (false, false) {
            assert!(Instant::now() < end, "the library was never probed");
            reached = (first.is_changed(), last.is_changed());
        }
        tracer.signal(Signal::SIGKILL);
        assert_eq!(tracer.wait().status.signal(), Some(9));
        eventually("no breakpoint is left", || !code.iter().any(Code::is_changed));
        if reached.0 != reached.1 {
            return;
        }
    }
    panic!("the moment was met in none of {ROUNDS} rounds");
}

#[test]
fn a_trace_whose_probes_are_taken_away_ends_and_says_so() {
    let _machine = locks::no_system_wide_trace();
    let mut victim = Victim::start_with_own_libc("family.c", &[]);
    let tracer = Tracer::attach(&victim, &[]);
    victim.work();
    let holder = holder(tracer.pid()).expect("a process holds the probes");
    kill(Pid::from_raw(holder as i32), Signal::SIGKILL).unwrap();
    let finished = tracer.wait();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    let told = format!("process {holder}, which held the probes, has ended by signal: 9 (SIGKILL)");
    assert!(finished.stderr.contains(&format!("leaktrace: {told}")), "{}", finished.stderr);
    // What there was until then is reported.
    assert!(finished.stdout.contains(&told) && finished.stdout.contains("leak_malloc"), "{}", finished.stdout);
    assert!(finished.read("snapshot.json").contains(&told));
    eventually("no breakpoint is left", || breakpoints(victim.pid()).is_empty());
    victim.finish();
}

/// The C library is the only file with probes: nothing else takes the holder longer than their removal.
#[test]
fn a_tracer_that_is_killed_while_a_writer_waits_leaves_no_probe() {
    let _machine = locks::no_system_wide_trace();
    let owner = Victim::start_with_own_libc("idle.c", &[]);
    let library = owner.own_libc().join("libc.so.6");
    build::copied(Path::new("/lib64/ld-linux-x86-64.so.2"), Path::new(LINKER));
    let mut command = Command::new(SLEEPING.built());
    let crowd = Crowd::of(command.env("LD_LIBRARY_PATH", owner.own_libc()), CROWD);
    // A file that somebody may write to gets no probes.
    let _linker = File::options().write(true).open(LINKER).unwrap();
    let code: Vec<Code> = crowd.0.iter().map(|process| Code::of(process.id(), path_str(&library))).collect();
    // The removal takes some milliseconds, and so does the tracer's end.
    for delay in (0..ROUNDS as u64).map(Duration::from_millis) {
        let tracer = Tracer::start(&["-p", &crowd.0[0].id().to_string()]);
        eventually("the crowd has probes", || code.iter().all(Code::is_changed));
        let written = library.clone();
        let writer = thread::spawn(move || drop(File::options().write(true).open(written).unwrap()));
        thread::sleep(delay);
        tracer.signal(Signal::SIGKILL);
        assert_eq!(tracer.wait().status.signal(), Some(9));
        writer.join().unwrap();
        // The holder may outlive its tracer and the writer's waiting a little.
        eventually("no breakpoint is left", || !code.iter().any(Code::is_changed));
    }
}

#[test]
fn a_tracer_that_is_killed_while_its_holder_is_stopped_leaves_no_probe() {
    let _machine = locks::no_system_wide_trace();
    let victim = Victim::start_with_own_libc("idle.c", &[]);
    let tracer = Tracer::attach(&victim, &[]);
    let holder = holder(tracer.pid()).expect("a process holds the probes");
    assert!(!breakpoints(victim.pid()).is_empty());
    kill(Pid::from_raw(holder as i32), Signal::SIGSTOP).unwrap();
    tracer.signal(Signal::SIGKILL);
    assert_eq!(tracer.wait().status.signal(), Some(9));
    eventually("it has ended", || !is_holder(holder));
    eventually("no breakpoint is left", || breakpoints(victim.pid()).is_empty());
}

/// A holder that is sent these signals: the trace is as exact as ever, and the holder ends with it.
fn withstands(signals: &[Signal]) {
    let mut victim = Victim::start("family.c", &[]);
    let tracer = Tracer::attach(&victim, &[]);
    let holder = holder(tracer.pid()).expect("a process holds the probes");
    for signal in signals {
        kill(Pid::from_raw(holder as i32), *signal).unwrap();
    }
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.lossless().assert_equals(&accounts);
    eventually("it has ended", || !is_holder(holder));
    victim.finish();
}

#[test]
fn a_holder_that_is_stopped_holds_up_no_report() {
    withstands(&[Signal::SIGSTOP]);
}

#[test]
fn signals_to_everybody_do_not_end_the_holder() {
    use Signal::{SIGHUP, SIGINT, SIGIO, SIGQUIT, SIGTERM, SIGXCPU};
    withstands(&[SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU, SIGIO]);
}

/// A holder of ours with so many descriptors at most, and the socket by which it is asked.
fn holder_of_ours(descriptors: u64) -> (Child, OwnedFd) {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let mut command = leaktrace::<&str>([]);
    // SAFETY: one system call.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?));
    }
    (command.arg0("probe-holder").stdin(theirs).spawn().unwrap(), ours)
}

/// Asks it for a probe by a perf event at the beginning of a file's code: its answer.
fn ask(holder: &OwnedFd, program: &File, file: &File, offset: u64) -> String {
    let (mut stream, other) = UnixStream::pair().unwrap();
    let rights = [other.as_raw_fd(), program.as_raw_fd(), file.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&rights)];
    sendmsg::<()>(holder.as_raw_fd(), &[IoSlice::new(&[0])], &message, MsgFlags::empty(), None).unwrap();
    drop(other);
    let place = format!(r#"{{"offsets":[{offset}],"cookies":[0],"semaphores":[],"pid":0,"returns":false}}"#);
    // The file's content as it is.
    let status = file.metadata().unwrap();
    let (modified, changed) = ((status.mtime(), status.mtime_nsec()), (status.ctime(), status.ctime_nsec()));
    let times = format!(r#""modified":[{},{}],"changed":[{},{}]"#, modified.0, modified.1, changed.0, changed.1);
    let version = format!(r#"{{"size":{},{times}}}"#, status.len());
    let condition = format!(r#"{{"version":{version},"excerpts":[],"is_served":false,"beside":null}}"#);
    write!(stream, r#"{{"PerfEvent":[{place},{condition}]}}"#).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_holder_puts_no_breakpoint_where_no_program_is_to_run() {
    let _machine = locks::no_system_wide_trace();
    let victim = Victim::start_with_own_libc("idle.c", &[]);
    let library = victim.own_libc().join("libc.so.6");
    let code = Code::of(victim.pid(), path_str(&library));
    let nothing = File::open("/dev/null").unwrap();
    let (mut holder, socket) = holder_of_ours(1024);
    let answer = ask(&socket, &nothing, &File::open(&library).unwrap(), code.offset);
    drop(socket);
    assert!(holder.wait().unwrap().success());
    // EPERM: whoever has such a program may have probes.
    assert_eq!(answer, r#"{"Err":1}"#);
    assert!(!code.is_changed());
}

#[test]
fn a_holder_without_room_for_descriptors_says_so_and_keeps_none() {
    let nothing = File::open("/dev/null").unwrap();
    // Three are its standard streams, and one or two of the three that come with a request have room.
    for limit in [4, 5] {
        let (mut holder, socket) = holder_of_ours(limit);
        for _ in 0..3 {
            // EMFILE
            assert_eq!(ask(&socket, &nothing, &nothing, 0), r#"{"Err":24}"#);
        }
        drop(socket);
        assert!(holder.wait().unwrap().success());
    }
}

#[test]
fn a_holder_is_nobodys_but_a_tracers() {
    let status = leaktrace::<&str>([]).arg0("probe-holder").status().unwrap();
    assert_eq!(status.code(), Some(2));
}
