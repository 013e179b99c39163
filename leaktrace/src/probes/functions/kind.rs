//! What a call of an allocation function means, and where its arguments are.

/// What a call does to the recorded blocks. One BPF program serves each kind.
///
/// The program reads some of three arguments, named A, B and C. At the probed instruction they are in the registers of the
/// first three C arguments, or where the attach cookie says (`leaktrace_common::cookie`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A = size; returns the block or NULL. `malloc`, `valloc`, `mallocx`, `operator new`.
    Malloc,
    /// A = count, B = size of each; returns the block or NULL. `calloc`.
    Calloc,
    /// A = block or NULL, B = size; returns the new block, or NULL with the old one untouched (freed if the size was 0).
    Realloc,
    /// A = block or NULL, B = count, C = size of each; otherwise as [`Kind::Realloc`].
    ReallocArray,
    /// B = size (A would be the alignment, which is not read); returns the block or NULL. `memalign`, `aligned_alloc`.
    Memalign,
    /// A = address of the pointer to fill in, C = size (B would be the alignment); returns 0 on success, and only then
    /// has written through A.
    PosixMemalign,
    /// No argument is read; returns a string or NULL, whose size is its length and its terminator. `strdup`.
    Strdup,
    /// A = block, B = size (C would be optional extra bytes, which are not read); resizes in place and returns the usable
    /// size, at least B if it succeeded, less if it could not grow. jemalloc's `xallocx`.
    Xallocx,
    /// A = block or NULL. Freed when the call begins, so no return probe: before it returns, another thread may already
    /// own the address. `free`, `dallocx`, `operator delete`.
    Free,
}

impl Kind {
    /// Every kind, for whoever needs one program each.
    pub const ALL: [Self; 9] = [
        Self::Malloc,
        Self::Calloc,
        Self::Realloc,
        Self::ReallocArray,
        Self::Memalign,
        Self::PosixMemalign,
        Self::Strdup,
        Self::Xallocx,
        Self::Free,
    ];

    /// Which of A, B and C the program reads.
    #[must_use]
    pub const fn reads(self) -> [bool; 3] {
        match self {
            Self::Malloc | Self::Free => [true, false, false],
            Self::Calloc | Self::Realloc | Self::Xallocx => [true, true, false],
            Self::ReallocArray => [true, true, true],
            Self::Memalign => [false, true, false],
            Self::PosixMemalign => [true, false, true],
            Self::Strdup => [false, false, false],
        }
    }

    /// Whether the return is needed: for the returned value, or for what the call has written to memory.
    #[must_use]
    pub const fn needs_return(self) -> bool {
        !matches!(self, Self::Free)
    }

    /// Whether the call can hand out a block.
    #[must_use]
    pub const fn allocates(self) -> bool {
        !matches!(self, Self::Free | Self::Xallocx)
    }
}

/// Which C arguments (counted from 0) are A, B and C of a function of some [`Kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature {
    /// What the call does.
    pub kind: Kind,
    pub(super) positions: [u8; 3],
}

impl Signature {
    /// A function whose A, B and C are its first three arguments but for `by` others before them.
    pub(super) const fn shifted(kind: Kind, by: u8) -> Self {
        Self { kind, positions: [by, by + 1, by + 2] }
    }

    /// The positions of A, B and C, also of those that are not read.
    #[must_use]
    pub const fn positions(&self) -> [u8; 3] {
        self.positions
    }

    /// The positions of the arguments that are read.
    pub fn read_positions(&self) -> impl Iterator<Item = u8> + use<> {
        self.positions.into_iter().zip(self.kind.reads()).filter(|(_, read)| *read).map(|(position, _)| position)
    }
}

/// The family of names that a function belongs to. A name has its meaning only in an object that has the family's allocator:
/// an executable's own `cfree` or `valloc` without a `malloc` beside it is an unrelated function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// The C library's names, which every replacement of `malloc` takes over, and jemalloc's `mallocx` and its like.
    C,
    /// `operator new` and `operator delete`, mangled.
    Cxx,
    /// The C names behind a prefix: jemalloc as `je_`, `_rjem_` and whatever else it was built with.
    Prefixed,
    /// gperftools' `tc_*` and the names of Google's newer tcmalloc.
    Tcmalloc,
    /// `mi_*`.
    Mimalloc,
    /// Names that only mimalloc replaces and implements by itself: `strdup`, `vfree`.
    Overridden,
    /// oneTBB's `scalable_*`.
    Tbb,
    /// rpmalloc's `rp*`.
    Rpmalloc,
    /// snmalloc's C and Rust interfaces, `sn_*`.
    Snmalloc,
    /// What the user named.
    User,
}

/// A function in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Which arguments mean what.
    pub signature: Signature,
    /// Whose name it is.
    pub family: Family,
}
