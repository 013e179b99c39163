//! Entering the root: a mount namespace of our own, in which the root becomes `/`.
//!
//! `pivot_root(2)` and not `chroot(2)`: after chroot the kernel refuses new user namespaces, which nine tests need. The
//! kernel's file systems are this machine's, since it is this machine's kernel that traces. All mounts disappear with the
//! namespace, that is, with the last process in it.

use super::tree;
use anyhow::{Context as _, Error, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chdir, getppid, pivot_root};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

/// An environment variable of every process in the root, with the root's path, by which [`end_all_in`] finds them.
const MARK: &str = "LEAKTRACE_BARE_ROOT";

/// Variables of this machine by which programs reach the network, or find out where they run.
const KEPT: [&str; 14] = [
    "CI",
    "TERM",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "CARGO_TERM_PROGRESS_WHEN",
    "CARGO_HTTP_CAINFO",
    "LEAKTRACE_DEBIAN_MIRROR",
];

/// Becomes the command in this root. Returns only where that fails.
pub fn become_command(root: &Path, command: &[String]) -> Result<()> {
    let Some((program, arguments)) = command.split_first() else { bail!("no command to run in {}", root.display()) };
    // The waiting parent may be killed: nothing is to go on without it.
    let chore = getppid();
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("asking to be ended with the chore")?;
    if getppid() != chore {
        bail!("the chore has ended");
    }
    enter(root)?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(tree::CHECKOUT).env_clear();
    command.envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    let path = format!("{}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", tree::RUST);
    command.env("PATH", path).env("HOME", "/root").env("LANG", "C.UTF-8").env(MARK, root);
    Err(Error::new(command.exec()).context(format!("running {program} on the bare machine")))
}

fn enter(root: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("keeping mounts to ourselves")?;
    let bind = |from: &Path, to: &Path, flags: MsFlags| {
        mount(Some(from), to, none, MsFlags::MS_BIND | flags, none)
            .with_context(|| format!("mounting {} at {}", from.display(), to.display()))
    };
    // `pivot_root(2)` requires the new root to be a mount.
    bind(root, root, MsFlags::MS_REC)?;
    for kernel in ["proc", "sys", "dev"] {
        bind(&Path::new("/").join(kernel), &root.join(kernel), MsFlags::MS_REC)?;
    }
    for (from, to) in tree::shared()? {
        bind(&from, &root.join(to.trim_start_matches('/')), MsFlags::empty())?;
    }
    chdir(root).context("entering the root")?;
    pivot_root(".", ".").context("changing the root")?;
    // The old root is mounted above the new one; the lazy unmount ends when nobody uses it.
    umount2(".", MntFlags::MNT_DETACH).context("leaving the old root")?;
    chdir("/").context("entering the new root")
}

/// Ends every process that was started in this root and still runs.
pub fn end_all_in(root: &Path) -> Result<()> {
    let mark = format!("{MARK}={}", root.display());
    for entry in std::fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // The environment of kernel threads, and of processes that have exited meanwhile, cannot be read.
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    Ok(())
}
