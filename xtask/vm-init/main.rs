//! The first and only service of the machines that `cargo xtask vm-test` boots: mounts what programs expect, runs what the
//! plan says, tells how each ended, and switches the machine off.
//!
//! In: the plan in the initramfs. Out: lines on the second serial port. Must never return: a kernel whose first process ends
//! panics, which would look as if the kernel had failed.

#[path = "../src/vm_test/plan.rs"]
mod plan;

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use plan::{Answer, MARK, PLAN, Plan};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// The port for answers and for what the programs write; the kernel's own words go to the first.
const PORT: &str = "/dev/ttyS1";

/// Type, mount point, and whether a kernel may lack it.
const FILE_SYSTEMS: [(&str, &str, bool); 7] = [
    ("proc", "/proc", false),
    ("sysfs", "/sys", false),
    ("devtmpfs", "/dev", false),
    ("tracefs", "/sys/kernel/tracing", true),
    ("debugfs", "/sys/kernel/debug", true),
    ("bpf", "/sys/fs/bpf", true),
    ("cgroup2", "/sys/fs/cgroup", true),
];

fn main() {
    if let Err(error) = work() {
        // To the console, the kernel's own port, which the host keeps as well.
        eprintln!("vm-init: {error}");
    }
    // What was written is in the port already; the file systems vanish with the machine.
    let failed = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("vm-init: cannot switch the machine off: {failed:?}");
}

fn work() -> io::Result<()> {
    for (kind, point, may_lack) in FILE_SYSTEMS {
        fs::create_dir_all(point)?;
        let mounted = mount(Some(kind), point, Some(kind), MsFlags::empty(), None::<&str>);
        if let Err(error) = mounted
            && !may_lack
        {
            return Err(io::Error::other(format!("mounting {kind}: {error}")));
        }
    }
    // No file system of its own: the working tree may lie there.
    fs::create_dir_all("/tmp")?;
    fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777))?;
    let mut port = OpenOptions::new().write(true).open(PORT)?;
    say(
        &mut port,
        &Answer::Up {
            release: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processors: std::thread::available_parallelism()?.get(),
        },
    )?;
    let plan: Plan = serde_json::from_slice(&fs::read(PLAN)?)?;
    for run in plan.runs {
        say(&mut port, &Answer::Begin { title: run.title.clone() })?;
        let status = match start(&run.command, &plan.environment, &port) {
            Ok(child) => wait_for(child)?,
            Err(error) => {
                writeln!(port, "cannot start {}: {error}", run.command.join(" "))?;
                127
            }
        };
        say(&mut port, &Answer::End { title: run.title, status })?;
    }
    say(&mut port, &Answer::Done)
}

fn start(command: &[String], environment: &[(String, String)], port: &File) -> io::Result<Pid> {
    let [program, arguments @ ..] = command else { return Err(io::ErrorKind::InvalidInput.into()) };
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(File::open("/dev/null")?)
        .stdout(port.try_clone()?)
        .stderr(port.try_clone()?)
        .spawn()?;
    Ok(Pid::from_raw(child.id() as i32))
}

/// Waits for its end, and for the ends of all that have lost their parents meanwhile, which is the first process's duty.
fn wait_for(child: Pid) -> io::Result<i32> {
    loop {
        match wait()? {
            WaitStatus::Exited(pid, status) if pid == child => return Ok(status),
            WaitStatus::Signaled(pid, signal, _) if pid == child => return Ok(128 + signal as i32),
            _ => {}
        }
    }
}

fn say(port: &mut File, answer: &Answer) -> io::Result<()> {
    // A line of its own, whatever the program before left unfinished.
    write!(port, "\n{MARK}{}\n", serde_json::to_string(answer)?)?;
    port.flush()
}
