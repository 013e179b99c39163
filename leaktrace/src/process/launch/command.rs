//! Which file a COMMAND names, and what it is executed with.
//!
//! In: the words of the command line and PATH. Out: a path that can be executed, or an error that names what is wrong,
//! before anything was started. The rules are those of execvp(3) and of every shell.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::AccessFlags;

/// Where programs are looked for if PATH is unset: what the C library's `confstr(_CS_PATH)` says on Linux.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What runs a script that has no `#!` line.
const SHELL: &str = "/bin/sh";

/// Why a COMMAND cannot be started. Each text is one line that names the command and the next step.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No word at all.
    #[error("no command given: name one after `--`")]
    Empty,
    /// No such file in PATH.
    #[error("command not found: `{}`{}", .name.display(), hint(*.here, .name))]
    NotFound {
        /// As it was typed.
        name: OsString,
        /// There is a program of this name in the current directory.
        here: bool,
    },
    /// No such file.
    #[error("no such command: `{}`", .0.display())]
    NoSuchFile(PathBuf),
    /// A directory, a device or the like.
    #[error("`{}` is not a program but a {}", .path.display(), .kind)]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// No permission to execute it.
    #[error("`{}` is not executable: `chmod +x` it, or name its interpreter", .0.display())]
    NotExecutable(PathBuf),
    /// A file on its way, or a part of its path, could not be examined.
    #[error("cannot start `{}`: {error}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// A NUL byte within a word.
    #[error("the command's word {0:?} contains a NUL byte")]
    Nul(OsString),
    /// The kernel refused to execute the file.
    #[error("cannot start `{}`: {}", .path.display(), refusal(*.errno))]
    Refused {
        /// The file.
        path: PathBuf,
        /// What execve(2) said.
        errno: i32,
    },
}

fn hint(here: bool, name: &OsStr) -> String {
    if here { format!("; for the one in this directory write `./{}`", name.display()) } else { String::new() }
}

/// What execve(2) means by an error about a file that exists and may be executed.
fn refusal(errno: i32) -> String {
    match errno {
        libc::ENOENT => {
            "the interpreter it asks for (its `#!` line, or its ELF program interpreter) does not exist".to_owned()
        }
        libc::ENOEXEC => "it is not in a format that this machine executes".to_owned(),
        libc::EACCES => {
            "permission denied (a file system mounted noexec, or an interpreter that is not executable)".to_owned()
        }
        other => io::Error::from_raw_os_error(other).to_string(),
    }
}

/// A command that was found, in the form execve(2) wants.
#[derive(Debug)]
pub(super) struct Executable {
    /// The file.
    pub(super) path: CString,
    /// The words as typed: the program sees the name it was called by.
    pub(super) argv: Vec<CString>,
    /// The shell and its words, if the file may be a script without a `#!` line.
    pub(super) script: Option<(CString, Vec<CString>)>,
    /// Its environment, if that is not ours.
    pub(super) environment: Option<Vec<CString>>,
}

impl Executable {
    /// Finds the file that `command` names, `path` being the value of PATH.
    pub(super) fn find(command: &[OsString], path: Option<&OsStr>) -> Result<Self, CommandError> {
        let name = command.first().ok_or(CommandError::Empty)?;
        let argv = command.iter().map(|word| nul_terminated(word)).collect::<Result<Vec<_>, _>>()?;
        let file = locate(name, path)?;
        let path = nul_terminated(file.as_os_str())?;
        let script = (!is_elf(&file)).then(|| {
            let shell = CString::new(SHELL).unwrap_or_default();
            let words = [shell.clone(), path.clone()].into_iter().chain(argv.iter().skip(1).cloned()).collect();
            (shell, words)
        });
        Ok(Self { path, argv, script, environment: None })
    }

    /// Has a library loaded into it, and into what it executes, before all others: those that the environment names follow.
    pub(super) fn preload(&mut self, library: &Path) {
        let mut value = OsString::from("LD_PRELOAD=");
        value.push(library);
        let mut environment = Vec::new();
        for (name, own) in std::env::vars_os() {
            if name != "LD_PRELOAD" {
                environment.push([name.as_bytes(), b"=", own.as_bytes()].concat());
            } else if !own.is_empty() {
                value.push(":");
                value.push(own);
            }
        }
        environment.push(value.into_vec());
        // No variable has a NUL byte.
        self.environment = Some(environment.into_iter().filter_map(|entry| CString::new(entry).ok()).collect());
    }

    /// The file, for messages.
    pub(super) fn file(&self) -> PathBuf {
        OsString::from_vec(self.path.as_bytes().to_vec()).into()
    }
}

fn nul_terminated(word: &OsStr) -> Result<CString, CommandError> {
    CString::new(word.as_bytes()).map_err(|_| CommandError::Nul(word.to_owned()))
}

/// The file that `name` stands for: itself if it has a slash, else the first executable one in the directories of PATH.
fn locate(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, CommandError> {
    if name.as_bytes().contains(&b'/') {
        let file = PathBuf::from(name);
        return match examine(&file) {
            Ok(()) => Ok(file),
            Err(error) => Err(error),
        };
    }
    let mut denied = None;
    if !name.is_empty() {
        for directory in path.unwrap_or(OsStr::new(DEFAULT_PATH)).as_bytes().split(|&byte| byte == b':') {
            // An empty entry means the current directory.
            let directory = if directory.is_empty() { b"." } else { directory };
            let file = Path::new(OsStr::from_bytes(directory)).join(name);
            match examine(&file) {
                Ok(()) => return Ok(file),
                Err(error @ CommandError::NotExecutable(_)) => denied = denied.or(Some(error)),
                Err(_) => {}
            }
        }
    }
    let here = examine(&Path::new(".").join(name)).is_ok();
    Err(denied.unwrap_or(CommandError::NotFound { name: name.to_owned(), here }))
}

/// Whether `file` is a regular file that we may execute.
fn examine(file: &Path) -> Result<(), CommandError> {
    let kind = match fs::metadata(file) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Err(CommandError::NoSuchFile(file.to_owned()));
        }
        Err(error) => return Err(CommandError::Unreadable { path: file.to_owned(), error }),
    };
    if !kind.is_file() {
        let kind = match kind {
            kind if kind.is_dir() => "directory",
            kind if kind.is_fifo() => "pipe",
            kind if kind.is_socket() => "socket",
            _ => "device",
        };
        return Err(CommandError::NotAFile { path: file.to_owned(), kind });
    }
    match nix::unistd::faccessat(nix::fcntl::AT_FDCWD, file, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        Ok(()) => Ok(()),
        Err(_) => Err(CommandError::NotExecutable(file.to_owned())),
    }
}

/// Whether `file` is a binary. One that cannot be read is taken for one: the shell could not read it either.
fn is_elf(file: &Path) -> bool {
    let mut magic = [0; 4];
    match fs::File::open(file).and_then(|mut file| file.read_exact(&mut magic)) {
        Ok(()) => magic == *b"\x7fELF",
        Err(error) => error.kind() != io::ErrorKind::UnexpectedEof,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn place(directory: &Path, name: &str, mode: u32, text: &str) -> PathBuf {
        let file = directory.join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_first_executable_in_path_is_taken() {
        let (a, b, c) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        place(a.path(), "tool", 0o644, "#!/bin/sh\n");
        fs::create_dir(b.path().join("other")).unwrap();
        let wanted = place(b.path(), "tool", 0o755, "#!/bin/sh\n");
        place(c.path(), "tool", 0o755, "#!/bin/sh\n");
        let path = format!("/nonexistent:{}:{}:{}", a.path().display(), b.path().display(), c.path().display());
        let found = Executable::find(&words(&["tool", "-x", ""]), Some(path.as_ref())).unwrap();
        assert_eq!(found.file(), wanted);
        assert_eq!(found.argv, [c"tool".to_owned(), c"-x".to_owned(), c"".to_owned()], "the words stay as typed");

        let denied = format!("{}:/nonexistent", a.path().display());
        let error = Executable::find(&words(&["tool"]), Some(denied.as_ref())).unwrap_err().to_string();
        assert!(error.contains("is not executable"), "{error}");
        let error = Executable::find(&words(&["other"]), Some(b.path().as_os_str())).unwrap_err().to_string();
        assert_eq!(error, "command not found: `other`", "a directory is no command");
    }

    #[test]
    fn a_name_with_a_slash_is_not_searched() {
        let home = tempfile::tempdir().unwrap();
        let script = place(home.path(), "run", 0o755, "echo hello\n");
        let found = Executable::find(&[script.clone().into_os_string(), "1".into()], None).unwrap();
        let (shell, argv) = found.script.unwrap();
        assert_eq!(shell.as_c_str(), c"/bin/sh");
        assert_eq!(argv[1].as_bytes(), script.as_os_str().as_bytes());
        assert_eq!(argv[2].as_c_str(), c"1");
        assert!(Executable::find(&words(&["/bin/true"]), None).unwrap().script.is_none(), "a binary is no script");

        let says = |words: &[OsString]| Executable::find(words, None).unwrap_err().to_string();
        assert_eq!(says(&words(&["/nonexistent/x"])), "no such command: `/nonexistent/x`");
        assert_eq!(says(&words(&["/etc/passwd/x"])), "no such command: `/etc/passwd/x`");
        assert_eq!(says(&words(&["/tmp/"])), "`/tmp/` is not a program but a directory");
        assert_eq!(says(&words(&["/dev/null"])), "`/dev/null` is not a program but a device");
        assert_eq!(says(&[]), "no command given: name one after `--`");
        assert!(says(&words(&["a\0b"])).contains("NUL"));
        let plain = place(home.path(), "plain", 0o644, "x");
        assert!(says(&[plain.into_os_string()]).contains("is not executable: `chmod +x` it"));
    }

    #[test]
    fn path_defaults_and_empty_names() {
        assert_eq!(Executable::find(&words(&["sh"]), None).unwrap().path.as_c_str(), c"/bin/sh");
        let error = Executable::find(&words(&[""]), Some("/bin".as_ref())).unwrap_err();
        assert!(matches!(error, CommandError::NotFound { here: false, .. }));
    }
}
