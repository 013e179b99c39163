//! Opening files that belong to other processes: in their root, through their `/proc` directory, within a budget.
//!
//! A traced process chooses its paths and what lies behind them, so nothing opened here may block (pipes), act
//! (devices) or lead out of the process' root (absolute links).
//!
//! The file system may not answer. What is held for long is therefore a descriptor that only names a file ([`name`]), and what
//! is asked of it only what the kernel knows ([`status`]): neither these nor the closing of it waits for a file system. FUSE waits
//! at the closing of a file that was opened for reading.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::Mode;

use super::Device;
use crate::host::clock::{monotonic_ns, realtime_ns};
use crate::host::file_id::{FileId, status};

/// A root directory: this program's or a traced process', which may be a container's.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    /// Device and inode of the directory, to tell roots apart.
    pub(super) id: FileId,
}

impl Root {
    /// The root of this program.
    pub fn own() -> io::Result<Self> {
        Self::new(open("/", Self::FLAGS, Mode::empty())?)
    }

    /// The root of the process whose `/proc` directory this is.
    pub(super) fn of(process: &ProcessDir) -> io::Result<Self> {
        Self::new(openat(&process.dir, "root", Self::FLAGS, Mode::empty())?)
    }

    const FLAGS: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

    fn new(dir: OwnedFd) -> io::Result<Self> {
        let stamp = Stamp::of(&dir)?;
        Ok(Self { dir, id: (stamp.device, stamp.inode) })
    }

    /// Opens a regular file for reading; links, absolute ones too, are followed inside this root.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        regular(self.resolve(path, READ, ResolveFlag::empty())?)
    }

    /// A descriptor that only names what lies at this path, without asking any file system. The error is `WouldBlock` where the
    /// kernel does not know enough for that.
    pub(super) fn find_known(&self, path: &Path) -> io::Result<File> {
        self.resolve(path, NAME, ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED)).map(File::from)
    }

    /// The same, and file systems are asked.
    pub(super) fn find(&self, path: &Path) -> io::Result<File> {
        self.resolve(path, NAME, ResolveFlag::empty()).map(File::from)
    }

    fn resolve(&self, path: &Path, flags: OFlag, how: ResolveFlag) -> io::Result<OwnedFd> {
        let inside: PathBuf = path.components().filter(|part| !matches!(part, Component::RootDir)).collect();
        let how = how | ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        Ok(openat2(&self.dir, &inside, OpenHow::new().flags(flags).resolve(how))?)
    }
}

/// Name it, and neither read nor change it.
const NAME: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// A descriptor that only names an open file.
pub(super) fn name(file: &File) -> io::Result<File> {
    Ok(File::from(open(own_link(file).as_str(), NAME, Mode::empty())?))
}

/// A named file, open for reading and with a position of its own. Asks the file system.
pub(super) fn open_named(file: &File) -> io::Result<File> {
    File::open(own_link(file))
}

fn own_link(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Never wait for a pipe's writer, never become a terminal's owner.
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

fn regular(fd: OwnedFd) -> io::Result<File> {
    let file = File::from(fd);
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// `/proc/PID`, open: what is read through it is that process' or an error, even when the pid is given to another.
#[derive(Debug)]
pub(super) struct ProcessDir {
    dir: OwnedFd,
    root_path: OnceCell<Option<PathBuf>>,
}

impl ProcessDir {
    pub(super) fn open(id: u32) -> io::Result<Self> {
        let dir = open(format!("/proc/{id}").as_str(), Root::FLAGS, Mode::empty())?;
        Ok(Self { dir, root_path: OnceCell::new() })
    }

    /// The same directory for another thread.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { dir: self.dir.try_clone()?, root_path: OnceCell::new() })
    }

    /// The user whose rights the process has.
    pub(super) fn user(&self) -> io::Result<u32> {
        let mut status = Vec::new();
        self.read("status", &mut status)?;
        let text = String::from_utf8_lossy(&status);
        let effective =
            text.lines().find_map(|line| line.strip_prefix("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok());
        effective.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no Uid in status"))
    }

    /// The whole of a text file of the kernel's, such as `maps`, appended to `text`.
    pub(super) fn read(&self, name: &str, text: &mut Vec<u8>) -> io::Result<()> {
        let mut file = File::from(openat(&self.dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?);
        file.read_to_end(text).map(drop)
    }

    /// The file behind a link of the kernel's (`exe`, `map_files/…`), which names the inode itself.
    pub(super) fn follow(&self, link: &str) -> io::Result<File> {
        regular(openat(&self.dir, link, READ, Mode::empty())?)
    }

    /// What such a link says.
    pub(super) fn target(&self, link: &str) -> io::Result<PathBuf> {
        Ok(PathBuf::from(readlinkat(&self.dir, link)?))
    }

    /// `path`, as `maps` shows it to us, as the process itself sees it: a changed root (`chroot(2)`) is left out. Another
    /// mount namespace's paths show from its own root already.
    pub(super) fn inside<'a>(&self, path: Cow<'a, Path>) -> Cow<'a, Path> {
        let root = self.root_path.get_or_init(|| {
            let path = PathBuf::from(readlinkat(&self.dir, "root").ok()?);
            (path != Path::new("/")).then_some(path)
        });
        match root.as_ref().and_then(|root| path.strip_prefix(root).ok()) {
            Some(inside) => Cow::Owned(Path::new("/").join(inside)),
            None => path,
        }
    }

    /// Device and inode behind such a link, without opening it.
    pub(super) fn identify(&self, link: &str) -> io::Result<FileId> {
        let link = CString::new(link)?;
        let stamp = Stamp::from(&status(self.dir.as_fd(), &link, 0)?);
        Ok((stamp.device, stamp.inode))
    }

    /// The other threads of the process, where its first one has ended and took `maps` with it.
    pub(super) fn threads(&self) -> io::Result<Vec<u32>> {
        let tasks = std::fs::read_dir(format!("/proc/self/fd/{}/task", self.dir.as_raw_fd()))?;
        Ok(tasks.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
    }
}

/// What tells one content of one file from another: the inode, and its size and time of last writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// `st_dev`
    pub(super) device: u64,
    /// `st_ino`
    pub(super) inode: u64,
    /// Bytes.
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, i64),
}

impl Stamp {
    /// As the kernel knows it: no file system is asked.
    pub(super) fn of(file: &impl AsFd) -> io::Result<Self> {
        status_of(file).map(|status| Self::from(&status))
    }

    /// Whether it is the same file, whatever its content.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    pub(super) fn is_on(&self, device: Device) -> bool {
        self.device == libc::makedev(device.major, device.minor)
    }
}

impl From<&libc::statx> for Stamp {
    fn from(status: &libc::statx) -> Self {
        Self {
            device: libc::makedev(status.stx_dev_major, status.stx_dev_minor),
            inode: status.stx_ino,
            size: status.stx_size,
            modified: (status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec.into()),
        }
    }
}

/// What the kernel knows of an open file.
pub(super) fn status_of(file: &impl AsFd) -> io::Result<libc::statx> {
    status(file.as_fd(), c"", libc::AT_EMPTY_PATH)
}

/// When an open file was last written to, or later, by `CLOCK_MONOTONIC`. `None` where its time is not of this machine's clock, or
/// not known. Its time of last change counts, which nobody can set, and for a file whose name is gone that of last writing: the
/// removal was a change, too.
pub(super) fn written_ns(file: &impl AsFd) -> Option<u64> {
    let status = status_of(file).ok()?;
    let then = if status.stx_nlink == 0 { status.stx_mtime } else { status.stx_ctime };
    let then = u64::try_from(then.tv_sec).ok()?.checked_mul(1_000_000_000)?.checked_add(then.tv_nsec.into())?;
    let ago = realtime_ns().ok()?.checked_sub(then)?;
    Some(monotonic_ns().ok()?.saturating_sub(ago))
}

/// How many descriptors may be held for files of traced processes.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    taken: AtomicUsize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: AtomicUsize::new(0) })
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// The right to hold one descriptor, given back when dropped; `None` when all are taken.
    pub(super) fn take(self: &Arc<Self>) -> Option<Permit> {
        self.taken
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < self.limit).then_some(taken + 1))
            .ok()
            .map(|_| Permit(Arc::clone(self)))
    }
}

/// One descriptor's share of a [`Budget`].
#[derive(Debug)]
pub(super) struct Permit(Arc<Budget>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn absolute_links_stay_inside_the_root() {
        let dir = tempfile::tempdir().expect("scratch");
        std::fs::create_dir(dir.path().join("etc")).expect("etc");
        std::fs::write(dir.path().join("etc/hostname"), "inside").expect("file");
        symlink("/etc/hostname", dir.path().join("absolute")).expect("link");
        symlink("../../../../../../../../etc/hostname", dir.path().join("upwards")).expect("link");
        let root = Root::new(open(dir.path(), Root::FLAGS, Mode::empty()).expect("open")).expect("root");
        for path in ["/absolute", "/upwards", "/etc/hostname"] {
            let mut text = String::new();
            root.open(Path::new(path)).expect(path).read_to_string(&mut text).expect("read");
            assert_eq!(text, "inside", "{path}");
        }
    }

    #[test]
    fn a_pipe_is_refused_and_does_not_block() {
        let dir = tempfile::tempdir().expect("scratch");
        nix::unistd::mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).expect("pipe");
        let error = Root::own().expect("own root").open(&dir.path().join("pipe")).expect_err("no regular file");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_budget_gives_back_what_is_dropped() {
        let budget = Budget::new(2);
        let first = budget.take().expect("first");
        let _second = budget.take().expect("second");
        assert!(budget.take().is_none());
        drop(first);
        assert_eq!(budget.taken(), 1);
        assert!(budget.take().is_some());
    }
}
