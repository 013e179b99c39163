//! The registers of a stopped thread.
//!
//! In: the id of a thread that the calling thread traces and that is stopped. Out: the contents of its registers, as the words
//! that they consist of. Never writes a register.

use std::io;

use libc::{c_int, pid_t};

use super::ptrace;
use crate::model::{Address, Pid};

/// `NT_PRSTATUS` of include/uapi/linux/elf.h: the general registers, as `struct user_regs_struct` on x86-64 and `struct
/// user_pt_regs` on aarch64.
const GENERAL: c_int = 1;
/// How many words these structures have. A 32-bit thread's are fewer bytes.
const GENERAL_WORDS: usize = if cfg!(target_arch = "aarch64") { 34 } else { 27 };
/// How many of these the kernel keeps on its stack.
const KERNEL_WORDS: usize = if cfg!(target_arch = "aarch64") { 34 } else { 21 };
/// The rest of a thread's registers: `NT_X86_XSTATE`, the XSAVE area, or `NT_PRFPREG`, the vector registers of aarch64.
const EXTENDED: c_int = if cfg!(target_arch = "aarch64") { 2 } else { 0x202 };
/// `NT_ARM_TLS`: the thread pointer, which is not among the general registers of aarch64.
#[cfg(target_arch = "aarch64")]
const ARM_THREAD_POINTER: c_int = 0x401;
/// Room for the largest set, in words. An XSAVE area with the tiles of AMX has 11,008 bytes, the largest until now.
const ROOM: usize = 64 * 1024 / size_of::<u64>();

/// Where some registers stand in the words of the general ones.
#[cfg(not(target_arch = "aarch64"))]
mod place {
    pub(super) const FRAME_POINTER: usize = 4;
    pub(super) const SYSTEM_CALL: usize = 15;
    pub(super) const INSTRUCTION_POINTER: usize = 16;
    pub(super) const STACK_POINTER: usize = 19;
    pub(super) const THREAD_POINTER: usize = 21;
    pub(super) const GS_BASE: usize = 22;
}
#[cfg(target_arch = "aarch64")]
mod place {
    pub(super) const SYSTEM_CALL: usize = 8;
    pub(super) const FRAME_POINTER: usize = 29;
    pub(super) const STACK_POINTER: usize = 31;
    pub(super) const INSTRUCTION_POINTER: usize = 32;
}

/// The registers of a thread at the moment at which it was stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registers {
    general: [u64; GENERAL_WORDS],
    extended: Vec<u64>,
    thread_pointer: u64,
}

/// A stopped thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoppedThread {
    /// Its id; that of the first thread is the process'.
    pub tid: Pid,
    /// The kernel's short name of it; empty where it could not be read.
    pub comm: String,
    /// What its registers contain.
    pub registers: Registers,
}

/// Why registers could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegistersError {
    /// The thread runs 32-bit code.
    #[error("it runs 32-bit code")]
    WordSize,
    /// What the kernel said; `ESRCH` where the thread is no longer stopped, since it was killed.
    #[error(transparent)]
    Kernel(#[from] io::Error),
}

impl Registers {
    /// Reads those of `tid`, which the calling thread traces and which is stopped.
    pub(super) fn read(tid: pid_t, room: &mut Room) -> Result<Self, RegistersError> {
        let mut general = [0; GENERAL_WORDS];
        if ptrace::register_set(tid, GENERAL, &mut general)? != size_of_val(&general) {
            return Err(RegistersError::WordSize);
        }
        let bytes = match ptrace::register_set(tid, EXTENDED, &mut room.0) {
            Ok(bytes) => bytes,
            // A processor without XSAVE, which only emulators and very old machines are.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL)) => 0,
            Err(error) => return Err(error.into()),
        };
        let extended = room.0[..bytes.div_ceil(size_of::<u64>()).min(ROOM)].to_vec();
        let thread_pointer = thread_pointer(tid, &general)?;
        Ok(Self { general, extended, thread_pointer })
    }

    /// Those that a thread had when it came into the kernel for the last time: the words of `struct pt_regs` of x86-64 or of
    /// `struct user_pt_regs` of aarch64, and the thread's bases. Other registers are not known.
    #[must_use]
    pub fn at_end(words: &[u64], [base, gs_base]: [u64; 2]) -> Self {
        let mut general = [0; GENERAL_WORDS];
        let known = words.len().min(KERNEL_WORDS);
        general[..known].copy_from_slice(&words[..known]);
        #[cfg(not(target_arch = "aarch64"))]
        {
            (general[place::THREAD_POINTER], general[place::GS_BASE]) = (base, gs_base);
        }
        #[cfg(target_arch = "aarch64")]
        let _ = gs_base;
        Self { general, extended: Vec::new(), thread_pointer: base }
    }

    /// The general registers in the order of the kernel's structure. On x86-64 that is r15, r14, r13, r12, rbp, rbx, r11, r10,
    /// r9, r8, rax, rcx, rdx, rsi, rdi, the number of the system call, rip, cs, flags, rsp, ss, the bases of fs and gs, ds, es,
    /// fs, gs; on aarch64 x0 to x30, sp, pc, pstate.
    #[must_use]
    pub fn general(&self) -> &[u64] {
        &self.general
    }

    /// The system call that the thread is in, or was in when it was stopped: negative for none.
    #[must_use]
    pub fn system_call(&self) -> i64 {
        self.general[place::SYSTEM_CALL].cast_signed()
    }

    /// The general registers by their numbers in DWARF (System V ABI for x86-64, figure 3.36), the last one being the next
    /// instruction's address; `None` on other machines.
    #[must_use]
    pub fn by_dwarf_number(&self) -> Option<[u64; 17]> {
        #[cfg(not(target_arch = "aarch64"))]
        return Some(
            [10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0, 16].map(|place: usize| self.general[place]),
        );
        #[cfg(target_arch = "aarch64")]
        None
    }

    /// All the other registers. On x86-64 that is the XSAVE area in its standard form (Intel SDM volume 1, chapter 13): xmm0 at
    /// byte 160, the header at 512, then the components; what a thread does not use is zero. On aarch64 it is v0 to v31 and the
    /// two status registers. Empty where the processor has none.
    #[must_use]
    pub fn extended(&self) -> &[u64] {
        &self.extended
    }

    /// The top of the stack. On x86-64 the 128 bytes below it belong to the function that was running.
    #[must_use]
    pub fn stack_pointer(&self) -> Address {
        Address(self.general[place::STACK_POINTER])
    }

    /// The next instruction.
    #[must_use]
    pub fn instruction_pointer(&self) -> Address {
        Address(self.general[place::INSTRUCTION_POINTER])
    }

    /// rbp or x29, which need not be a frame's.
    #[must_use]
    pub fn frame_pointer(&self) -> Address {
        Address(self.general[place::FRAME_POINTER])
    }

    /// The thread's control block, by which its thread-local storage is found: the base of fs, or `TPIDR_EL0`.
    #[must_use]
    pub fn thread_pointer(&self) -> Address {
        Address(self.thread_pointer)
    }

    /// The base of gs, which a few runtimes use; 0 on aarch64, which has none.
    #[must_use]
    pub fn gs_base(&self) -> Address {
        #[cfg(not(target_arch = "aarch64"))]
        return Address(self.general[place::GS_BASE]);
        #[cfg(target_arch = "aarch64")]
        return Address(0);
    }
}

#[cfg(not(target_arch = "aarch64"))]
#[expect(clippy::unnecessary_wraps, reason = "on aarch64 the kernel is asked")]
fn thread_pointer(_: pid_t, general: &[u64; GENERAL_WORDS]) -> io::Result<u64> {
    Ok(general[place::THREAD_POINTER])
}

#[cfg(target_arch = "aarch64")]
fn thread_pointer(tid: pid_t, _: &[u64; GENERAL_WORDS]) -> io::Result<u64> {
    // Newer kernels write a second word, TPIDR2_EL0.
    let mut words = [0; 2];
    ptrace::register_set(tid, ARM_THREAD_POINTER, &mut words)?;
    Ok(words[0])
}

/// The name of the register that a word of [`Registers::general`] or, behind these, of [`Registers::extended`] belongs to.
#[must_use]
pub fn name(position: usize) -> String {
    #[cfg(not(target_arch = "aarch64"))]
    {
        const NAMES: [&str; GENERAL_WORDS] = [
            "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi",
            "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
        ];
        // In the area of XSAVE two words each, from byte 160 on.
        const FIRST: usize = GENERAL_WORDS + 160 / size_of::<u64>();
        match NAMES.get(position) {
            Some(name) => (*name).to_owned(),
            None if (FIRST..FIRST + 32).contains(&position) => format!("xmm{}", (position - FIRST) / 2),
            None => "a vector register".to_owned(),
        }
    }
    #[cfg(target_arch = "aarch64")]
    match position {
        0..31 => format!("x{position}"),
        31 => "sp".to_owned(),
        32 => "pc".to_owned(),
        33 => "pstate".to_owned(),
        _ => format!("v{}", (position - GENERAL_WORDS) / 2),
    }
}

/// The name of one of the registers that a call keeps on x86-64, in the order of their numbers in DWARF.
#[must_use]
pub fn kept_name(position: usize) -> String {
    ["rbx", "rbp", "r12", "r13", "r14", "r15"]
        .get(position)
        .map_or_else(|| "a register".to_owned(), |name| (*name).to_owned())
}

/// Where the kernel writes a set of registers of unknown size; used again for each thread.
pub(super) struct Room(Vec<u64>);

impl Room {
    pub(super) fn new() -> Self {
        Self(vec![0; ROOM])
    }
}

impl StoppedThread {
    /// Describes `tid`, whose registers are read as [`Registers::read`] does.
    pub(super) fn read(tid: pid_t, comm: String, room: &mut Room) -> Result<Self, RegistersError> {
        Ok(Self { tid: Pid(tid as u32), comm, registers: Registers::read(tid, room)? })
    }
}
