//! Runs `leaktrace` where something it needs is missing: as another user, on a full disk, on a lesser kernel.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;

use super::build;
use super::tracer::binary;

/// The user that owns nothing, by its number on Debian and elsewhere.
const NOBODY: u32 = 65534;

/// `leaktrace` as the user nobody, without any capability. The directory holds a copy of the binary that nobody may
/// execute wherever the checkout lies, and may be written to.
pub fn as_nobody(arguments: &[&str]) -> (Command, TempDir) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    let copy = directory.path().join("leaktrace");
    build::copied(&binary(), &copy);
    let mut command = Command::new(copy);
    command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir(directory.path());
    (command, directory)
}

/// Gives the command a view of the file system of its own, in which `place` is an empty file system of `size` bytes.
pub fn with_small_disk(command: &mut Command, place: &Path, size: u32) {
    let place = place.to_owned();
    let options = format!("size={size}");
    // SAFETY: between fork and exec only system calls are made; the strings were allocated before.
    unsafe {
        command.pre_exec(move || {
            private_mounts()?;
            mount(Some("none"), &place, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
            Ok(())
        });
    }
}

/// Hides `place` behind an empty directory from the command alone.
pub fn with_hidden(command: &mut Command, place: &'static str) {
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            private_mounts()?;
            mount(Some("none"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
            Ok(())
        });
    }
}

/// Has the command find another file than everybody else at `place`.
pub fn with_file_over(command: &mut Command, file: &Path, place: &'static str) {
    let file = file.to_owned();
    // SAFETY: between fork and exec only system calls are made; the strings were allocated before.
    unsafe {
        command.pre_exec(move || {
            private_mounts()?;
            mount(Some(&file), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
    }
}

fn private_mounts() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
}

/// Lets a system call fail with ENOSYS for the command, as on a kernel built without it; where `first` is given, only if
/// its first argument is that number. May be said of several calls.
pub fn without_syscall(command: &mut Command, number: libc::c_long, first: Option<u32>) {
    // Classic BPF over struct seccomp_data, which begins with `int nr; u32 arch; u64 instruction_pointer; u64 args[6]`.
    const FIRST_ARGUMENT: u32 = 16;
    let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, equal) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let give = |answer| statement(libc::BPF_RET | libc::BPF_K, 0, 0, answer);
    let refuse = give(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    let allow = give(libc::SECCOMP_RET_ALLOW);
    let mut program = vec![statement(load, 0, 0, 0)];
    if let Some(first) = first {
        program.extend([
            statement(equal, 0, 3, number as u32),
            statement(load, 0, 0, FIRST_ARGUMENT),
            statement(equal, 0, 1, first),
        ]);
    } else {
        program.push(statement(equal, 0, 1, number as u32));
    }
    program.extend([refuse, allow]);
    // SAFETY: between fork and exec only system calls are made; the program lives in the closure.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
            let ok = libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0;
            if ok { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}
