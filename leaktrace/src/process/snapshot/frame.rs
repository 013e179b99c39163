//! What is written below a thread's stack so that it finds its own way back.
//!
//! Pure: the registers of a thread in, bytes and addresses out.
//!
//! The kernel loads all registers of a thread at once from a frame on its stack when a signal handler returns (`rt_sigreturn`,
//! `arch/x86/kernel/signal_64.c`). Three such frames make a thread that is left alone at any moment go on as it would have:
//!
//! ```text
//! stack pointer - 128, the end of what belongs to the program
//!   a word that a system call writes to
//!   the vector registers
//!   frame of the helper task:  exit_group(0)
//!   frame of the thread:       its own registers, at the system call that was interrupted
//!   frame before that:         wait4(the helper task)      <- stack pointer while calls are injected
//! ```
//!
//! Each frame begins with the address of the code that calls `rt_sigreturn`, so that the `ret` behind an injected system call leads
//! into it. All of it lies above the stack pointer of that time: a signal handler does not overwrite it.

use super::gadgets::Gadgets;

/// Where registers stand in `struct user_regs_struct`.
pub(super) mod place {
    pub(in crate::process) const R10: usize = 7;
    pub(in crate::process) const R8: usize = 9;
    pub(in crate::process) const RAX: usize = 10;
    pub(in crate::process) const RDX: usize = 12;
    pub(in crate::process) const RSI: usize = 13;
    pub(in crate::process) const RDI: usize = 14;
    pub(in crate::process) const CALL: usize = 15;
    pub(in crate::process) const RIP: usize = 16;
    pub(in crate::process) const CS: usize = 17;
    pub(in crate::process) const RSP: usize = 19;
    pub(in crate::process) const SS: usize = 20;
}

/// How many of them are written: all but the bases and selectors of segments, which nothing here changes.
pub(super) const GENERAL: usize = 21;
/// Those of one thread.
pub(super) type General = [u64; GENERAL];

/// What belongs to the running function below the stack pointer (System V ABI for x86-64, section 3.2.2).
const RED_ZONE: u64 = 128;
/// The system calls that stand in frames.
const WAIT4: u64 = 61;
const EXIT_GROUP: u64 = 231;
/// A process id that no process has (`PID_MAX_LIMIT` is less): waiting for it ends at once.
pub(super) const NOBODY: u64 = 0x7fff_ffff;

/// Where the fields of `struct rt_sigframe` and of the `struct sigcontext` in it lie (arch/x86/include/asm/sigframe.h,
/// arch/x86/include/uapi/asm/sigcontext.h), in words.
mod field {
    pub(super) const RESTORER: usize = 0;
    pub(super) const FLAGS: usize = 1;
    pub(super) const ALTERNATE_STACK_FLAGS: usize = 4;
    pub(super) const CONTEXT: usize = 6;
    /// From `CONTEXT` on.
    pub(super) const DI: usize = 8;
    pub(super) const SEGMENTS: usize = 18;
    pub(super) const STATE: usize = 23;
    pub(super) const MASK: usize = CONTEXT + 32;
    pub(super) const WORDS: usize = MASK + 1;
}
/// Of the general registers, those of a `struct sigcontext` in its order: r8 to r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip,
/// flags.
const ORDER: [usize; 18] = [9, 8, 7, 6, 3, 2, 1, 0, 14, 13, 4, 5, 12, 10, 11, 19, 16, 18];
/// A frame's size, bytes.
const FRAME: u64 = 320;
const _: () = assert!(field::WORDS * 8 <= FRAME as usize);
/// `UC_FP_XSTATE`, `UC_SIGCONTEXT_SS` and `UC_STRICT_RESTORE_SS` of arch/x86/include/uapi/asm/ucontext.h.
const FLAGS: u64 = 1 | 2 | 4;
/// Neither `SS_ONSTACK` nor `SS_DISABLE`: the kernel takes no alternate stack from such a frame, and the thread keeps its own
/// (`do_sigaltstack` in kernel/signal.c).
const KEEP_ALTERNATE_STACK: u64 = 0x7f;

/// Where the software's words lie in an XSAVE area, what they contain in a frame, and what follows the area (`struct
/// _fpx_sw_bytes` in arch/x86/include/uapi/asm/sigcontext.h).
const SOFTWARE_WORDS: usize = 464 / 8;
const MAGIC_1: u64 = 0x4650_5853;
const MAGIC_2: u64 = 0x4650_5845;
/// Where the header of an XSAVE area begins, the first word of which says which components are in use.
const IN_USE: usize = 512 / 8;
/// The area without components.
const LEAST_STATE: u64 = 576;

/// The kernel's own error numbers for calls that it restarts (include/linux/errno.h).
const RESTARTS: [i64; 4] = [-512, -513, -514, -516];
const INTERRUPTED: i64 = -4;

/// How a thread waits in the system call that the stop has interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Waiting {
    /// Restarted without a trace.
    Restarted,
    /// Restarted with what is left of its time, and from a frame with its whole time.
    Timed,
    /// It has already returned `EINTR`, as `epoll_wait` does after every stop.
    Interrupted,
    /// Restarted unless there was a signal.
    RestartedWithoutSignal,
}

/// How a thread with these registers waits; `None` where it does not wait in a system call that was interrupted.
pub(super) fn waiting(general: &[u64]) -> Option<Waiting> {
    let (call, result) = (general[place::CALL].cast_signed(), general[place::RAX].cast_signed());
    if call < 0 {
        return None;
    }
    match result {
        -512 | -513 => Some(Waiting::Restarted),
        -516 => Some(Waiting::Timed),
        -514 => Some(Waiting::RestartedWithoutSignal),
        INTERRUPTED => Some(Waiting::Interrupted),
        _ => None,
    }
}

/// What is to be written, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Area {
    /// The first byte, which is the stack pointer while calls are injected.
    pub(super) start: u64,
    /// What lies from there on.
    pub(super) words: Vec<u64>,
    /// The stack pointer that the helper task begins with.
    pub(super) child_stack: u64,
    /// Where the id of the helper task has to be written for it to be waited for.
    pub(super) child_id: u64,
    /// A word for the result of a system call.
    pub(super) scratch: u64,
}

impl Area {
    /// The area of a thread with these registers that blocks these signals. `state_bytes` is the size of what is in use of
    /// `extended`, as [`state_bytes`] tells it. `None` where there is no room.
    pub(super) fn of(general: &[u64], extended: &[u64], state_bytes: u64, mask: u64, gadgets: Gadgets) -> Option<Self> {
        let end = (general[place::RSP].checked_sub(RED_ZONE)?) & !63;
        let scratch = end.checked_sub(64)?;
        let state = (scratch.checked_sub(state_bytes + 8)?) & !63;
        let child = state.checked_sub(FRAME)?;
        let own = child.checked_sub(FRAME)?;
        let start = own.checked_sub(FRAME)?;
        let mut words = vec![0; ((end - start) / 8) as usize];
        let mut put = |address: u64, what: &[u64]| {
            let at = ((address - start) / 8) as usize;
            words[at..at + what.len()].copy_from_slice(what);
        };

        let call = |number, argument, options, stack| {
            let mut registers = [0; GENERAL];
            registers.copy_from_slice(&general[..GENERAL]);
            registers[place::RAX] = number;
            registers[place::RDI] = argument;
            registers[place::RSI] = 0;
            registers[place::RDX] = options;
            registers[place::R10] = 0;
            registers[place::RIP] = gadgets.call;
            registers[place::RSP] = stack;
            registers
        };
        // Nothing may come between these calls and the way back.
        put(start, &frame(&call(WAIT4, NOBODY, libc::__WALL as u64, own), 0, u64::MAX, gadgets));
        put(own, &frame(&resumed(general), state, mask, gadgets));
        put(child, &frame(&call(EXIT_GROUP, 0, 0, own), 0, u64::MAX, gadgets));
        put(state, &vectors(extended, state_bytes)?);
        let child_id = start + ((field::CONTEXT + field::DI) * 8) as u64;
        Some(Self { start, words, child_stack: child, child_id, scratch })
    }

    /// One past the last byte.
    #[cfg(all(test, target_arch = "x86_64"))]
    fn end(&self) -> u64 {
        self.start + (self.words.len() * 8) as u64
    }
}

/// The registers with which a thread makes the interrupted call once more, as the kernel would have it
/// (`arch_do_signal_or_restart` in arch/x86/kernel/signal.c), apart from the time that has passed.
fn resumed(general: &[u64]) -> General {
    let mut registers = [0; GENERAL];
    registers.copy_from_slice(&general[..GENERAL]);
    if RESTARTS.contains(&registers[place::RAX].cast_signed()) {
        registers[place::RAX] = registers[place::CALL];
        // Both are the two bytes of `syscall`.
        registers[place::RIP] = registers[place::RIP].wrapping_sub(2);
    }
    registers
}

/// A frame from which the kernel loads these registers.
fn frame(registers: &General, state: u64, mask: u64, gadgets: Gadgets) -> [u64; field::WORDS] {
    let mut words = [0; field::WORDS];
    words[field::RESTORER] = gadgets.restore;
    words[field::FLAGS] = FLAGS;
    words[field::ALTERNATE_STACK_FLAGS] = KEEP_ALTERNATE_STACK;
    for (slot, register) in words[field::CONTEXT..].iter_mut().zip(ORDER) {
        *slot = registers[register];
    }
    words[field::CONTEXT + field::SEGMENTS] = registers[place::CS] & 0xffff | (registers[place::SS] & 0xffff) << 48;
    words[field::CONTEXT + field::STATE] = state;
    words[field::MASK] = mask;
    words
}

/// How much of an XSAVE area is in use, bytes, where `component` tells offset and size of each; `None` where that is not known.
pub(super) fn state_bytes(extended: &[u64], component: impl Fn(u32) -> (u64, u64)) -> Option<u64> {
    let in_use = *extended.get(IN_USE)?;
    let ends = (2..63).filter(|bit| in_use >> bit & 1 != 0).map(|bit| {
        let (offset, size) = component(bit);
        (size != 0).then(|| offset + size)
    });
    let bytes = ends.into_iter().try_fold(LEAST_STATE, |end, component| Some(end.max(component?)))?;
    (bytes <= size_of_val(extended) as u64).then_some(bytes)
}

/// The XSAVE area as a frame has it.
fn vectors(extended: &[u64], bytes: u64) -> Option<Vec<u64>> {
    let mut words = extended.get(..bytes.div_ceil(8) as usize)?.to_vec();
    // The kernel puts the set of all components first of the words that are the software's (`xstate_fx_sw_bytes`).
    let components = *words.get(SOFTWARE_WORDS)?;
    let (magic, size) = (MAGIC_1 | (bytes + 4) << 32, bytes);
    words[SOFTWARE_WORDS..SOFTWARE_WORDS + 6].copy_from_slice(&[magic, components, size, 0, 0, 0]);
    words.resize(bytes.div_ceil(8) as usize + 1, 0);
    let (at, half) = ((bytes / 8) as usize, bytes % 8);
    words[at] = words[at] & ((1 << (half * 8)) - 1) | MAGIC_2 << (half * 8);
    Some(words)
}

/// The offset and size of a component of the XSAVE area, as the processor tells them (Intel SDM volume 1, section 13.2).
#[cfg(target_arch = "x86_64")]
pub(super) fn component(number: u32) -> (u64, u64) {
    let leaf = std::arch::x86_64::__cpuid_count(0xd, number);
    (u64::from(leaf.ebx), u64::from(leaf.eax))
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn component(_: u32) -> (u64, u64) {
    (0, 0)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    const GADGETS: Gadgets = Gadgets { call: 0x1111, restore: 0x2222 };

    fn general() -> Vec<u64> {
        let mut general: Vec<u64> = (100..127).collect();
        general[place::RSP] = 0x7fff_0000_1238;
        general[place::RIP] = 0x5000;
        (general[place::CS], general[place::SS]) = (0x33, 0x2b);
        (general[place::CALL], general[place::RAX]) = (7, -512_i64 as u64);
        general
    }

    fn extended(in_use: u64) -> Vec<u64> {
        let mut extended = vec![0; 2696 / 8];
        extended[SOFTWARE_WORDS] = 0x2e7;
        extended[IN_USE] = in_use;
        extended
    }

    #[test]
    fn everything_lies_below_the_red_zone_and_the_way_back_first() {
        let area = Area::of(&general(), &extended(7), 832, 0x4000, GADGETS).unwrap();
        assert_eq!(area.end(), (0x7fff_0000_1238 - 128) & !63);
        assert!(area.start < area.child_id && area.child_id < area.child_stack && area.child_stack < area.scratch);
        let word = |address: u64| area.words[((address - area.start) / 8) as usize];
        assert_eq!([area.start, area.start + FRAME, area.child_stack].map(word), [0x2222; 3]);
        assert_eq!(word(area.child_id), NOBODY);
        // Register by register, as the compiler lays out the C library's structure.
        let own = area.start + FRAME;
        // SAFETY: plain numbers and pointers that are not followed; the words outlast the look.
        let context = unsafe { area.words.as_ptr().add((FRAME / 8) as usize + 1).cast::<libc::ucontext_t>().as_ref() };
        let context = context.unwrap();
        let register = |name: i32| context.uc_mcontext.gregs[name as usize] as u64;
        assert_eq!([libc::REG_R8, libc::REG_R15, libc::REG_RBX].map(register), [109, 100, 105]);
        assert_eq!([libc::REG_RIP, libc::REG_RAX, libc::REG_RSP].map(register), [0x4ffe, 7, 0x7fff_0000_1238]);
        assert_eq!([libc::REG_EFL, libc::REG_CSGSFS].map(register), [118, 0x2b << 48 | 0x33]);
        let state = context.uc_mcontext.fpregs as u64;
        assert!(state.is_multiple_of(64) && own < state && state + 832 + 4 <= area.scratch);
        assert_eq!(word(state + 464), MAGIC_1 | 836 << 32);
        assert_eq!((word(state + 472), word(state + 480), word(state + 832)), (0x2e7, 832, MAGIC_2));
        assert_eq!(word(own + 8 * field::MASK as u64), 0x4000);
    }

    #[test]
    fn a_call_is_made_again_unless_it_has_returned() {
        let mut registers = general();
        for (result, expected) in [
            (-512, Some(Waiting::Restarted)),
            (-513, Some(Waiting::Restarted)),
            (-514, Some(Waiting::RestartedWithoutSignal)),
            (-516, Some(Waiting::Timed)),
            (-4, Some(Waiting::Interrupted)),
            (0, None),
            (-11, None),
        ] {
            registers[place::RAX] = i64::cast_unsigned(result);
            assert_eq!(waiting(&registers), expected, "{result}");
            let again = resumed(&registers);
            let is_restarted = RESTARTS.contains(&result);
            let expected = if is_restarted { (0x4ffe, 7) } else { (0x5000, i64::cast_unsigned(result)) };
            assert_eq!((again[place::RIP], again[place::RAX]), expected, "{result}");
        }
        registers[place::CALL] = u64::MAX;
        registers[place::RAX] = -512_i64 as u64;
        assert_eq!(waiting(&registers), None, "a value in user code, not the kernel's");
    }

    #[test]
    fn only_components_in_use_need_room() {
        let component = |number| match number {
            2 => (576, 256),
            9 => (2688, 8),
            _ => (0, 0),
        };
        assert_eq!(state_bytes(&extended(3), component), Some(576));
        assert_eq!(state_bytes(&extended(7), component), Some(832));
        assert_eq!(state_bytes(&extended(0x207), component), Some(2696));
        assert_eq!(state_bytes(&extended(1 << 18), component), None, "unknown to the processor");
        assert_eq!(state_bytes(&[], component), None);
    }
}
