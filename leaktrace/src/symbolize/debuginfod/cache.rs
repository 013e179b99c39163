//! The directory that debuginfod's clients share: `BUILD-ID/debuginfo` for each file that came.
//!
//! A file gets its name only when it is complete and checked, and has none before: nothing is left behind, however the
//! program ends. If another user owns the directory, files are used but not kept.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{Uid, linkat};

/// The name of debug information in the directory of its build id.
const NAME: &str = "debuginfo";

/// The directory.
pub(super) struct Cache(Option<PathBuf>);

impl Cache {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self(directory)
    }

    /// The cached file for a build id. Other programs write to the cache, so the content may be anything.
    pub(super) fn open(&self, id: &str) -> Option<File> {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.place(id)?.join(NAME)).ok()?;
        // An empty file is another client's record that no server has the debug information.
        file.metadata().is_ok_and(|status| status.is_file() && status.len() > 0).then_some(file)
    }

    /// A file without a name, on the cache's file system where it can be kept.
    pub(super) fn room(&self, id: &str) -> io::Result<File> {
        self.own_place(id).and_then(|place| tempfile::tempfile_in(place).ok()).map_or_else(tempfile::tempfile, Ok)
    }

    /// Gives a file from [`Self::room`] its name, if it can be kept.
    pub(super) fn keep(&self, id: &str, file: &File) {
        let Some(place) = self.own_place(id) else { return };
        let (unfinished, name) = (place.join(format!(".{NAME}.{}", std::process::id())), place.join(NAME));
        let open = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let kept = file
            .set_permissions(Permissions::from_mode(0o400))
            .and_then(|()| Ok(linkat(AT_FDCWD, &open, AT_FDCWD, &unfinished, AtFlags::AT_SYMLINK_FOLLOW)?))
            .and_then(|()| fs::rename(&unfinished, &name));
        if let Err(error) = kept {
            let _ = fs::remove_file(&unfinished);
            log::debug!("debuginfod: {} is not kept: {error}", name.display());
        }
    }

    fn place(&self, id: &str) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(id))
    }

    /// The directory of a build id, made if need be; `None` where it is not ours.
    fn own_place(&self, id: &str) -> Option<PathBuf> {
        let place = self.place(id)?;
        // Root creates nothing in another user's home.
        let there = place.ancestors().find(|path| path.exists())?;
        let made = is_ours(there) && DirBuilder::new().recursive(true).mode(0o700).create(&place).is_ok();
        (made && is_ours(&place)).then_some(place)
    }
}

/// Whether only this user or root decides what lies there.
fn is_ours(directory: &Path) -> bool {
    fs::metadata(directory)
        .is_ok_and(|status| status.is_dir() && [0, Uid::effective().as_raw()].contains(&status.uid()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    fn kept(cache: &Cache, id: &str) -> Option<String> {
        let mut text = String::new();
        cache.open(id)?.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn a_file_takes_its_name_when_it_is_whole_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(directory.path().join("a/b")));
        let mut room = cache.room("0a1b").unwrap();
        room.write_all(b"content").unwrap();
        let place = directory.path().join("a/b/0a1b");
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "it has no name yet");
        assert_eq!(kept(&cache, "0a1b"), None);
        cache.keep("0a1b", &room);
        assert_eq!(kept(&cache, "0a1b").as_deref(), Some("content"));
        let names: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [NAME]);
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o700);
        // One that came later takes its place.
        let mut other = cache.room("0a1b").unwrap();
        other.write_all(b"other").unwrap();
        cache.keep("0a1b", &other);
        assert_eq!(kept(&cache, "0a1b").as_deref(), Some("other"));
    }

    #[test]
    fn what_other_clients_leave_is_read_or_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(directory.path().to_owned()));
        for (id, content) in [("aa", "debug"), ("bb", "")] {
            fs::create_dir(directory.path().join(id)).unwrap();
            fs::write(directory.path().join(id).join(NAME), content).unwrap();
        }
        fs::create_dir(directory.path().join("cc")).unwrap();
        nix::unistd::mkfifo(&directory.path().join("cc").join(NAME), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(["aa", "bb", "cc"].map(|id| kept(&cache, id)), [Some("debug".to_owned()), None, None]);
    }

    #[test]
    fn without_a_directory_files_are_used_and_not_kept() {
        let cache = Cache::new(None);
        let mut room = cache.room("aa").unwrap();
        room.write_all(b"content").unwrap();
        cache.keep("aa", &room);
        room.rewind().unwrap();
        let mut text = String::new();
        room.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), kept(&cache, "aa")), ("content", None));
    }
}
