//! Destinations of reports: an unwritable file is found before tracing starts, and a report file is replaced as a whole or
//! not at all.
//!
//! A regular file is written beside its destination and renamed over it, so that a reader never sees half of a report and a
//! full disk never destroys the previous one. Everything else (FIFOs, terminals, `/dev/null`, open descriptors) is written
//! in place, and so are files in directories that are not writable.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::fstat;
use nix::unistd::{Gid, Uid, fchown};

/// Reserved for a moment to find out whether the disk is full: about the size of a small flame graph with its script.
const RESERVED_BYTES: i64 = 128 << 10;

/// The directory whose entries are the descriptors this process has open.
const DESCRIPTORS: &str = "/dev/fd";

/// Where one report goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output: `-`, or another name of it such as `/dev/stdout`.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl Destination {
    /// The destination that a command-line value names.
    #[must_use]
    pub fn from_arg(arg: &OsStr) -> Self {
        let is_stdout = arg == "-" || open_descriptor(Path::new(arg)) == Some(1);
        if is_stdout { Self::Stdout } else { Self::File(arg.into()) }
    }
}

/// The number of this process' descriptor that `path` is another name of: 2 for `/dev/stderr`.
fn open_descriptor(path: &Path) -> Option<u32> {
    let descriptors = fs::canonicalize(DESCRIPTORS).ok()?;
    let mut path = path.to_owned();
    // /dev/stdout is a link to such a name; longer chains do not occur, and a cycle must end.
    for _ in 0..4 {
        let directory = fs::canonicalize(path.parent()?).ok()?;
        if directory == descriptors {
            return path.file_name()?.to_str()?.parse().ok();
        }
        path = directory.join(fs::read_link(&path).ok()?);
    }
    None
}

/// A file found to be writable.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    how: How,
}

#[derive(Debug, PartialEq, Eq)]
enum How {
    /// Written in `directory` and renamed to `to`.
    Replace { to: PathBuf, directory: PathBuf },
    /// Emptied and written.
    InPlace,
    /// Added to.
    Append,
}

/// Why a file cannot be written. Each message names the next step.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The path names a directory.
    #[error("it is a directory; name a file in it")]
    IsDirectory,
    /// The directory that the file would be in is not there.
    #[error("the directory {0} does not exist; create it or name another file")]
    NoDirectory(PathBuf),
    /// Something that a report must not be written over.
    #[error("it is a {0}; name a file")]
    NotAFile(&'static str),
    /// Standard output was redirected to the same file.
    #[error("standard output goes to the same file; name another one, or - for standard output")]
    IsStdout,
    /// No room.
    #[error("{}; make room there or name another file", reason(.0))]
    Full(io::Error),
    /// Any other refusal of the kernel.
    #[error("{}; name another file", reason(.0))]
    Refused(io::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => Self::Full(error),
            Some(Errno::EISDIR) => Self::IsDirectory,
            _ => Self::Refused(error),
        }
    }
}

/// The kernel's words for an error, without the number that `io::Error` adds.
pub(crate) fn reason(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| Errno::from_raw(number).desc().to_owned())
}

impl OutputFile {
    /// Finds out whether `path` can be written, and leaves nothing behind.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn check(path: &Path) -> Result<Self, OutputError> {
        // The file behind a descriptor is shared with whoever opened it: it is appended to, never replaced.
        let how = if open_descriptor(path).is_some() {
            OpenOptions::new().append(true).open(path)?;
            How::Append
        } else {
            match fs::metadata(path) {
                Ok(metadata) => check_existing(path, &metadata)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => check_new(path)?,
                Err(error) => return Err(error.into()),
            }
        };
        Ok(Self { path: path.to_owned(), how })
    }

    /// Writes what `render` renders.
    ///
    /// # Errors
    /// What stood in the way; a regular file's previous contents are then still there.
    pub fn write(&self, render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), OutputError> {
        let mut options = OpenOptions::new();
        match &self.how {
            How::Replace { to, directory } => Ok(replace(to, directory, render)?),
            How::InPlace => Ok(fill(&options.write(true).create(true).truncate(true).open(&self.path)?, render)?),
            How::Append => Ok(fill(&options.append(true).open(&self.path)?, render)?),
        }
    }
}

fn check_existing(path: &Path, metadata: &fs::Metadata) -> Result<How, OutputError> {
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(OutputError::IsDirectory);
    }
    if kind.is_block_device() {
        return Err(OutputError::NotAFile("block device"));
    }
    if kind.is_socket() {
        return Err(OutputError::NotAFile("socket"));
    }
    if kind.is_fifo() {
        // Opening a FIFO waits for a reader, who may come as late as the report.
        return Ok(How::InPlace);
    }
    OpenOptions::new().write(true).open(path)?;
    if !kind.is_file() {
        return Ok(How::InPlace);
    }
    if fstat(io::stdout()).is_ok_and(|stdout| (stdout.st_dev, stdout.st_ino) == (metadata.dev(), metadata.ino())) {
        return Err(OutputError::IsStdout);
    }
    // A symbolic link stays one: what it points at is replaced.
    let to = fs::canonicalize(path)?;
    let directory = to.parent().unwrap_or(Path::new("/")).to_owned();
    match reserve(&directory) {
        Ok(()) => Ok(How::Replace { to, directory }),
        // The file itself may be writable although its directory is not.
        Err(OutputError::Refused(_)) => Ok(How::InPlace),
        Err(error) => Err(error),
    }
}

fn check_new(path: &Path) -> Result<How, OutputError> {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(OutputError::IsDirectory);
    }
    if fs::symlink_metadata(path).is_ok() {
        // A link to a file that is not there yet: opening it will create that file.
        let target = path.parent().unwrap_or(Path::new("/")).join(fs::read_link(path)?);
        reserve(&directory_of(&target)?)?;
        return Ok(How::InPlace);
    }
    let directory = directory_of(path)?;
    reserve(&directory)?;
    let name = path.file_name().ok_or(OutputError::IsDirectory)?;
    Ok(How::Replace { to: directory.join(name), directory })
}

fn directory_of(path: &Path) -> Result<PathBuf, OutputError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => OutputError::NoDirectory(parent.to_owned()),
        _ => OutputError::Refused(error),
    };
    let directory = fs::canonicalize(parent).map_err(missing)?;
    if directory.is_dir() { Ok(directory) } else { Err(OutputError::NoDirectory(parent.to_owned())) }
}

/// Creates a nameless file in `directory` with some room, and lets it go again.
fn reserve(directory: &Path) -> Result<(), OutputError> {
    let file = tempfile::tempfile_in(directory)?;
    match fallocate(&file, FallocateFlags::empty(), 0, RESERVED_BYTES) {
        Err(errno @ (Errno::ENOSPC | Errno::EDQUOT)) => Err(OutputError::Full(errno.into())),
        // Not every file system can reserve space; writing the report will then find out.
        Ok(()) | Err(_) => Ok(()),
    }
}

fn fill(file: &File, render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(file);
    render(&mut out)?;
    out.flush()
}

fn replace(to: &Path, directory: &Path, render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // The mode of any new file: the process's umask applies when it is created.
    let mode = Permissions::from_mode(0o666);
    // On failure the temporary file is not persisted, but removed when it is dropped.
    let file = tempfile::Builder::new().prefix(".leaktrace-").permissions(mode).tempfile_in(directory)?;
    fill(file.as_file(), render)?;
    if let Ok(previous) = fs::metadata(to) {
        // Under sudo the file would become root's. If the owner cannot be kept, the report is still written.
        let _ = fchown(file.as_file(), Some(Uid::from_raw(previous.uid())), Some(Gid::from_raw(previous.gid())));
        file.as_file().set_permissions(Permissions::from_mode(previous.mode() & 0o7777))?;
    }
    file.persist(to).map(drop).map_err(|failed| failed.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &'static str) -> impl FnOnce(&mut dyn Write) -> io::Result<()> {
        move |out| out.write_all(text.as_bytes())
    }

    fn check_error(path: &Path) -> String {
        OutputFile::check(path).unwrap_err().to_string()
    }

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn standard_output_has_several_names() {
        for name in ["-", "/dev/stdout", "/dev/fd/1", "/dev/../dev/fd/1"] {
            assert_eq!(Destination::from_arg(OsStr::new(name)), Destination::Stdout);
        }
        for name in ["./-", "1", "/dev/stderr", "/dev/null"] {
            assert_eq!(Destination::from_arg(OsStr::new(name)), Destination::File(name.into()));
        }
    }

    #[test]
    fn checking_leaves_nothing_behind_and_writing_one_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        let output = OutputFile::check(&path).unwrap();
        assert!(names(directory.path()).is_empty());
        output.write(text("one")).unwrap();
        output.write(text("two")).unwrap();
        assert_eq!(names(directory.path()), ["out.json"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
    }

    #[test]
    fn a_failed_report_leaves_the_previous_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        fs::write(&path, "previous").unwrap();
        let output = OutputFile::check(&path).unwrap();
        let failure = output.write(|out| {
            out.write_all(b"half")?;
            Err(Errno::ENOSPC.into())
        });
        assert!(matches!(failure, Err(OutputError::Full(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "previous");
        assert_eq!(names(directory.path()), ["out.json"]);
    }

    #[test]
    fn mode_and_symbolic_link_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        OutputFile::check(&link).unwrap().write(text("new")).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_link_to_nothing_creates_its_target() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("target", &link).unwrap();
        OutputFile::check(&link).unwrap().write(text("new")).unwrap();
        assert_eq!(fs::read_to_string(directory.path().join("target")).unwrap(), "new");
    }

    #[test]
    fn what_cannot_be_written_is_found_before() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing/out.svg");
        assert!(check_error(&missing).ends_with("missing does not exist; create it or name another file"));
        assert_eq!(check_error(directory.path()), "it is a directory; name a file in it");
        assert_eq!(check_error(&directory.path().join("new/")), "it is a directory; name a file in it");
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(
            check_error(&file.join("out.svg")).contains("Not a directory"),
            "{}",
            check_error(&file.join("out.svg"))
        );
        // Nobody can create files in sysfs; if it is mounted read-only, the kernel's error says that instead.
        let refused = check_error(Path::new("/sys/out.svg"));
        let reasons = ["Permission denied", "Read-only file system"];
        assert!(reasons.iter().any(|reason| refused == format!("{reason}; name another file")), "{refused}");
        let socket = directory.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(check_error(&socket), "it is a socket; name a file");
    }

    #[test]
    fn devices_are_written_in_place() {
        OutputFile::check(Path::new("/dev/null")).unwrap().write(text("gone")).unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        let full = OutputFile::check(Path::new("/dev/full")).unwrap().write(text("no room"));
        assert_eq!(full.unwrap_err().to_string(), "No space left on device; make room there or name another file");
    }

    #[test]
    fn a_fifo_is_not_opened_before_there_is_a_report() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let output = OutputFile::check(&path).unwrap();
        let reader = {
            let path = path.clone();
            std::thread::spawn(move || fs::read_to_string(path).unwrap())
        };
        output.write(text("through")).unwrap();
        assert_eq!(reader.join().unwrap(), "through");
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    }

    #[test]
    fn an_open_descriptor_is_added_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("shared");
        fs::write(&path, "before ").unwrap();
        let file = File::open(&path).unwrap();
        let name = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        OutputFile::check(Path::new(&name)).unwrap().write(text("after")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "before after");
    }
}
