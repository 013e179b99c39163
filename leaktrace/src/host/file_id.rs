//! Which file an open file is, whatever its names.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// The device and the inode of a file, as `stat` has them.
pub type FileId = (u64, u64);

/// Of this file.
pub fn of(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}
