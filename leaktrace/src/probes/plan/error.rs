//! Why nothing can be planned for an object.

use crate::elf::ElfError;

/// No allocator has more functions than this in one object; a hostile symbol table may have any number.
pub(super) const MAX_FUNCTIONS: usize = 512;

/// Why nothing can be planned for an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not an image we can read.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// A symbol table with more allocation functions than any allocator has.
    #[error("more than {MAX_FUNCTIONS} allocation functions in one object")]
    TooManyFunctions,
}
