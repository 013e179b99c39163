//! A function as its object shows it, and where in it a probe goes.

use std::fmt;

use leaktrace_common::cookie::{self, Register};

use crate::probes::functions::Kind;

/// Instruction sets of the objects we can probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Machine {
    /// x86-64 with 64-bit pointers: neither i386 nor x32.
    X86_64,
    /// 64-bit ARM, little-endian.
    Aarch64,
}

/// The longest x86 instruction, in bytes (Intel SDM volume 2, 2.3.11): as much as must be given of a function whose size
/// is not known.
pub const LONGEST_INSTRUCTION: usize = 15;

/// A function as its object shows it.
#[derive(Debug, Clone, Copy)]
pub struct Function<'a> {
    /// The instruction set.
    pub machine: Machine,
    /// The entry, in the object's own numbering (ELF virtual address).
    pub address: u64,
    /// The bytes from the entry on: exactly the symbol's size if [`Self::whole`], otherwise as many as there are, at
    /// least [`LONGEST_INSTRUCTION`] if possible.
    pub code: &'a [u8],
    /// Whether `code` is the whole function and nothing else.
    pub whole: bool,
    /// The lowest address behind the entry at which another symbol lies, or to which code outside the function branches.
    pub entered_at: Option<u64>,
}

/// Where the probe goes, and what it finds there. Only [`super::select`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Site {
    /// Bytes from the function's entry.
    pub offset: u32,
    /// Bytes by which the stack pointer is below its value at the entry: the return address is that far above it.
    pub stack_shift: u64,
    /// The registers that hold A, B and C, as far as the function's kind reads them; the others mean nothing.
    pub arguments: [Register; cookie::ARGUMENTS],
    /// What a hit costs.
    pub cost: Cost,
    /// Why it is here and not elsewhere.
    pub reason: Reason,
}

/// What the kernel does at each hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cost {
    /// One trap: the instruction is emulated.
    Emulated,
    /// Two traps and a copy of the instruction: it is single-stepped.
    Stepped,
    /// Not known for this instruction set.
    Unknown,
}

/// Why a site is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The entry itself is emulated.
    Entry,
    /// Moved to the first emulated instruction.
    Moved,
    /// The entry, because moving away from it cannot be justified.
    Fallback(Fallback),
}

/// Why a probe stays at the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fallback {
    /// Sites are not searched for in code of this instruction set.
    Architecture,
    /// The symbol has no size, so branches into the function's first part may be missed.
    UnknownSize,
    /// Too long to look through, or not all of it is code.
    Unreadable,
    /// The function jumps to a place computed at run time, which may be before the site.
    IndirectJump,
    /// A branch leads to a place behind the entry and not behind the site.
    BranchTarget,
    /// Another symbol, or code of another function, enters the function there.
    EnteredElsewhere,
    /// An argument is overwritten.
    ArgumentLost,
    /// The stack pointer has moved, and the function needs a return probe; or it moves where we cannot follow.
    StackPointer,
    /// The frame pointer is no longer the caller's.
    FramePointer,
    /// The function stores to memory other threads may see.
    MemoryWrite,
    /// A system call.
    SystemCall,
    /// An instruction that we do not follow.
    NotUnderstood,
    /// The function ends, branches or calls before anything is emulated.
    NoSite,
}

impl Site {
    /// Whether what the kind reads of A, B and C is where the first three arguments are passed.
    #[must_use]
    pub fn is_plain(&self, machine: Machine, kind: Kind) -> bool {
        let mut read = self.arguments.iter().zip(0..).zip(kind.reads()).filter(|(_, read)| *read);
        self.stack_shift == 0 && read.all(|((register, position), _)| *register == argument_register(machine, position))
    }

    /// The attach cookie: 0 where the plain program serves, otherwise the map for the one that reads it.
    ///
    /// # Panics
    ///
    /// Never for a site that [`super::select`] made: its registers are numbered below 32, and its shift fits.
    #[must_use]
    pub fn cookie(&self, machine: Machine, kind: Kind) -> u64 {
        if self.is_plain(machine, kind) {
            return 0;
        }
        #[expect(clippy::expect_used, reason = "see Panics")]
        cookie::encode(self.arguments, self.stack_shift).expect("a site fits into a cookie")
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Architecture => "probes of this instruction set stay at the entry",
            Self::UnknownSize => "the symbol has no size",
            Self::Unreadable => "its code cannot be read through",
            Self::IndirectJump => "it jumps to a computed place",
            Self::BranchTarget => "a branch leads back to before the first cheap instruction",
            Self::EnteredElsewhere => "other code enters it behind its entry",
            Self::ArgumentLost => "an argument is overwritten first",
            Self::StackPointer => "the stack pointer moves first",
            Self::FramePointer => "the frame pointer changes first",
            Self::MemoryWrite => "it writes memory first",
            Self::SystemCall => "it makes a system call first",
            Self::NotUnderstood => "an instruction is not understood",
            Self::NoSite => "it has no cheap instruction early enough",
        })
    }
}

/// The register of the C argument at this position (System V AMD64 ABI 3.2.3, AAPCS64 6.8.2).
pub(super) fn argument_register(machine: Machine, position: u8) -> Register {
    const X86_64: [Register; 6] =
        [Register::RDI, Register::RSI, Register::RDX, Register::RCX, Register::R8, Register(9)];
    match machine {
        Machine::X86_64 => X86_64.get(usize::from(position)).copied().unwrap_or(Register::RAX),
        Machine::Aarch64 => Register(position),
    }
}
