//! Why nothing can be planned for an object.

use crate::elf::ElfError;

/// More functions than this in one object are no allocator's; a hostile symbol table may name any number.
pub(super) const MAX_FUNCTIONS: usize = 512;

/// Why nothing can be planned for an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not an image we can read.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// A symbol table nobody in good faith would make.
    #[error("more than {MAX_FUNCTIONS} allocation functions in one object")]
    TooManyFunctions,
}
