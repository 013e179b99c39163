//! Reading ELF files that somebody else can write.
//!
//! In: an open file. Out: its bytes, as each was when it was read, in memory of our own. **Never** a mapping of the file: whoever
//! shortens a mapped file kills its reader by SIGBUS. Sizes that a file claims are believed up to stated limits.

mod copy;

pub use copy::{CopyError, sealed, what_is_loaded};
