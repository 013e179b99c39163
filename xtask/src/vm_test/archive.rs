//! The initramfs: an archive in the kernel's `newc` form
//! (<https://docs.kernel.org/driver-api/early-userspace/buffer-format.html>), uncompressed, since unpacking is what an emulated
//! processor is slow at.
//!
//! In: files and where they are to lie. Out: bytes.

use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;

/// An archive under construction.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    present: BTreeSet<PathBuf>,
}

impl Archive {
    /// A file with those bytes and permissions.
    pub fn add(&mut self, path: &Path, permissions: u32, bytes: &[u8]) {
        self.add_parents(path);
        if self.present.insert(path.to_owned()) {
            self.entry(path, FILE | permissions, bytes);
        }
    }

    /// A copy of a file of this machine.
    pub fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let permissions = from.metadata().with_context(|| format!("{}", from.display()))?.permissions().mode() & 0o777;
        self.add(to, permissions, &crate::shell::read(from)?);
        Ok(())
    }

    /// A directory, with those above it.
    pub fn directory(&mut self, path: &Path) {
        self.add_parents(path);
        if path.parent().is_some() && self.present.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, &[]);
        }
    }

    /// The archive with its trailer.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        self.bytes
    }

    fn add_parents(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &Path, mode: u32, bytes: &[u8]) {
        let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_encoded_bytes();
        self.entries += 1;
        // Inode, mode, owner, group, links, time, size, device, device of a device node, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name);
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(bytes);
        self.pad();
    }

    /// Names and contents begin at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;
    use std::path::Path;

    #[test]
    fn the_archive_has_directories_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.add(Path::new("/a/b/file"), 0o755, b"hello");
        archive.add(Path::new("/a/b/file"), 0o755, b"again");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let places: Vec<_> = ["a\0", "a/b\0", "a/b/file\0", "hello", "TRAILER!!!\0"]
            .iter()
            .map(|name| text.find(name).unwrap())
            .collect();
        assert!(places.is_sorted(), "{places:?}");
        assert!(!text.contains("again"));
    }
}
