//! One step up the stack: from a frame's registers to its caller's.

use super::{Kind, Rule, Stop};

/// The frame pointer's value where an inner frame did not preserve it. No frame lies at an odd address.
const LOST: u64 = 1;

/// Farthest that a frame pointer may lie above the stack pointer: the default limit of a whole stack. It keeps a
/// general-purpose value in the frame pointer's register from being followed into the heap.
const MAX_FP_DISTANCE: u64 = 8 << 20;

/// Where the frame pointer of the interrupted code lies in a ucontext, counted back from its stack pointer:
/// `gregs[REG_RBP]` and `gregs[REG_RSP]` are 10 and 15 (x86-64 `<sys/ucontext.h>`). The instruction pointer is next
/// after the stack pointer.
const SIGNAL_FP_BELOW_SP: u64 = 40;

/// The registers a walk carries along. Values are those after the return into the frame, as the frame's own code
/// would see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Regs {
    /// Instruction pointer: a return address, or the interrupted instruction.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer register (x86-64 rbp, aarch64 x29), whatever the frame uses it for.
    pub fp: u64,
}

/// The caller's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Its registers.
    pub regs: Regs,
    /// True where `regs.ip` is the very instruction that was to be executed (a signal interrupted it), false where it
    /// is a return address and the call stands before it.
    pub exact: bool,
}

/// The memory that a walk reads.
pub trait Memory {
    /// The 64-bit word at `address`, `None` where it cannot be read. `address` may be anything.
    fn read(&mut self, address: u64) -> Option<u64>;
}

impl<F: FnMut(u64) -> Option<u64>> Memory for F {
    #[inline(always)]
    fn read(&mut self, address: u64) -> Option<u64> {
        self(address)
    }
}

/// Applies `rule`, which holds at `regs.ip`, and returns the caller's frame.
///
/// # Errors
/// Why there is no caller to go on with. [`Stop::NoRow`] stands for a rule of [`Kind::Gap`]: [`step_fp`] may then lead
/// on.
#[inline(always)]
pub fn step(regs: &Regs, rule: Rule, memory: &mut impl Memory) -> Result<Next, Stop> {
    let off = rule.off_bytes();
    let cfa = match rule.kind() {
        Kind::Sp => regs.sp.wrapping_add(off),
        Kind::Fp | Kind::FpDeref if regs.fp == LOST => return Err(Stop::Register),
        Kind::Fp => regs.fp.wrapping_add(off),
        Kind::Plt => regs.sp.wrapping_add(8 + 8 * u64::from((regs.ip & 15) >= u64::from(rule.off()))),
        Kind::FpDeref => read(memory, regs.fp.wrapping_sub(off))?,
        Kind::SpDeref => read(memory, regs.sp.wrapping_add(off))?.wrapping_add(8),
        Kind::Signal => return step_signal(regs.sp.wrapping_add(off), memory),
        Kind::Outermost => return Err(Stop::Outermost),
        Kind::Unsupported => return Err(unsupported(rule)),
        Kind::Gap if off != 0 && regs.ip.is_multiple_of(16) => return Err(Stop::Outermost),
        Kind::None | Kind::Gap => return Err(Stop::NoRow),
    };
    if cfa <= regs.sp {
        return Err(Stop::NotAdvancing);
    }
    let ip = read(memory, cfa.wrapping_sub(8))?;
    let fp = if let Kind::FpDeref = rule.kind() {
        read(memory, regs.fp.wrapping_add(rule.n_bytes()))?
    } else if rule.n() == 0 {
        regs.fp
    } else if rule.n() == Rule::FP_LOST {
        LOST
    } else {
        read(memory, cfa.wrapping_add(rule.n_bytes()))?
    };
    returned_to(Regs { ip, sp: cfa, fp })
}

/// The step for code without rows: (ip, sp, fp) = (*(fp + 8), fp + 16, *fp), the frame record that x86-64's `push
/// %rbp; mov %rsp, %rbp` and aarch64's `stp x29, x30, [sp, …]!; mov x29, sp` build alike. The caller of this function
/// must see to it that the resulting ip lies in code: the register may hold anything.
///
/// # Errors
/// [`Stop::Outermost`] at a frame pointer of zero (the ABI's mark of the deepest frame), [`Stop::NoRow`] where it
/// cannot be a frame pointer, [`Stop::BadRead`].
#[inline(always)]
pub fn step_fp(regs: &Regs, memory: &mut impl Memory) -> Result<Next, Stop> {
    if regs.fp == 0 {
        return Err(Stop::Outermost);
    }
    // Below the stack pointer the difference wraps and is out of reach as well.
    if regs.fp & 7 != 0 || regs.fp.wrapping_sub(regs.sp) > MAX_FP_DISTANCE {
        return Err(Stop::NoRow);
    }
    let ip = read(memory, regs.fp.wrapping_add(8))?;
    let fp = read(memory, regs.fp)?;
    returned_to(Regs { ip, sp: regs.fp.wrapping_add(16), fp })
}

/// The frame that a signal interrupted, from the address of `gregs[REG_RSP]` in its ucontext. Its stack pointer may be
/// anywhere: handlers run on stacks of their own.
#[inline(always)]
fn step_signal(saved_sp: u64, memory: &mut impl Memory) -> Result<Next, Stop> {
    let ip = read(memory, saved_sp.wrapping_add(8))?;
    let sp = read(memory, saved_sp)?;
    let fp = read(memory, saved_sp.wrapping_sub(SIGNAL_FP_BELOW_SP))?;
    Ok(Next { regs: Regs { ip, sp, fp }, exact: true })
}

#[inline(always)]
fn returned_to(regs: Regs) -> Result<Next, Stop> {
    // A return address of zero ends the stacks of threads and coroutines that were built by hand.
    if regs.ip == 0 { Err(Stop::Outermost) } else { Ok(Next { regs, exact: false }) }
}

#[inline(always)]
fn read(memory: &mut impl Memory, address: u64) -> Result<u64, Stop> {
    match memory.read(address) {
        Some(word) => Ok(word),
        None => Err(Stop::BadRead),
    }
}

#[inline(always)]
fn unsupported(rule: Rule) -> Stop {
    match rule.off() {
        c if c == Stop::Register as u32 => Stop::Register,
        c if c == Stop::Offset as u32 => Stop::Offset,
        c if c == Stop::Malformed as u32 => Stop::Malformed,
        c if c == Stop::NoMapping as u32 => Stop::NoMapping,
        c if c == Stop::NoTable as u32 => Stop::NoTable,
        c if c == Stop::TablePending as u32 => Stop::TablePending,
        c if c == Stop::Trampoline as u32 => Stop::Trampoline,
        _ => Stop::Expression,
    }
}

#[cfg(test)]
mod tests {
    use super::{LOST, Regs, step, step_fp};
    use crate::unwind::{Kind, Rule, Stop};

    /// A stack of words from address 0x1000 on; everything else is unreadable.
    fn stack(words: &[u64]) -> impl FnMut(u64) -> Option<u64> + '_ {
        |address| words.get(usize::try_from(address.checked_sub(0x1000)? / 8).ok()?).copied()
    }

    const REGS: Regs = Regs { ip: 0x40_0000, sp: 0x1000, fp: 0x1018 };

    fn caller(rule: Rule, words: &[u64]) -> Result<(u64, u64, u64), Stop> {
        step(&REGS, rule, &mut stack(words)).map(|next| {
            assert!(!next.exact);
            (next.regs.ip, next.regs.sp, next.regs.fp)
        })
    }

    #[test]
    fn sp_rules_pop_the_frame_and_keep_or_restore_the_frame_pointer() {
        let words = [1, 2, 3, 4, 5, 6];
        assert_eq!(caller(Rule::new(Kind::Sp, 1, 0), &words), Ok((1, 0x1008, 0x1018)));
        assert_eq!(caller(Rule::new(Kind::Sp, 4, -3), &words), Ok((4, 0x1020, 2)));
    }

    #[test]
    fn fp_rules_start_from_the_frame_pointer() {
        assert_eq!(caller(Rule::new(Kind::Fp, 2, -2), &[1, 2, 3, 4, 5, 6]), Ok((5, 0x1028, 4)));
    }

    #[test]
    fn a_plt_entry_has_pushed_one_word_from_its_eleventh_byte_on() {
        let words = [1, 2, 3];
        let rule = Rule::new(Kind::Plt, 11, 0);
        for (ip, expected) in [(0x1_0020, 1), (0x1_002a, 1), (0x1_002b, 2), (0x1_002f, 2)] {
            let next = step(&Regs { ip, ..REGS }, rule, &mut stack(&words)).unwrap();
            assert_eq!(next.regs.ip, expected, "at {ip:#x}");
        }
    }

    #[test]
    fn a_realigned_frame_finds_its_cfa_and_its_frame_pointer_through_the_frame_pointer() {
        // gcc's DRAP: *(rbp - 8) is the CFA, *(rbp) the caller's rbp.
        let words = [0, 0, 0x1030, 0x77, 0, 0x40_1234];
        assert_eq!(caller(Rule::new(Kind::FpDeref, 1, 0), &words), Ok((0x40_1234, 0x1030, 0x77)));
    }

    #[test]
    fn a_saved_stack_pointer_is_followed() {
        let words = [0, 0x1020, 0, 7, 9];
        assert_eq!(caller(Rule::new(Kind::SpDeref, 1, -2), &words), Ok((9, 0x1028, 7)));
    }

    #[test]
    fn a_signal_frame_gives_back_the_interrupted_registers() {
        let mut context = [0; 32];
        // gregs start at byte 40 of a ucontext: rbp is the 10th, rsp the 15th, rip the 16th.
        context[5 + 10] = 0xbbbb;
        context[5 + 15] = 0x10;
        context[5 + 16] = 0x41_0000;
        let next = step(&REGS, Rule::new(Kind::Signal, 20, 0), &mut stack(&context)).unwrap();
        assert!(next.exact);
        assert_eq!(next.regs, Regs { ip: 0x41_0000, sp: 0x10, fp: 0xbbbb });
    }

    #[test]
    fn walks_end_by_name() {
        let words = [1, 2, 0, 4];
        assert_eq!(caller(Rule::OUTERMOST, &words), Err(Stop::Outermost));
        assert_eq!(caller(Rule::new(Kind::Sp, 3, 0), &words), Err(Stop::Outermost), "a return address of zero");
        assert_eq!(caller(Rule::GAP, &words), Err(Stop::NoRow));
        assert_eq!(caller(Rule::NONE, &words), Err(Stop::NoRow));
        assert_eq!(caller(Rule::PADDING, &words), Err(Stop::Outermost), "returns to the start of a function");
        let inside = Regs { ip: REGS.ip + 5, ..REGS };
        assert_eq!(step(&inside, Rule::PADDING, &mut stack(&words)), Err(Stop::NoRow));
        assert_eq!(caller(Rule::new(Kind::Sp, 0, 0), &words), Err(Stop::NotAdvancing));
        assert_eq!(caller(Rule::new(Kind::Sp, 100, 0), &words), Err(Stop::BadRead));
        for why in [Stop::Expression, Stop::Register, Stop::Offset, Stop::Malformed, Stop::NoMapping, Stop::NoTable] {
            assert_eq!(caller(Rule::unsupported(why), &words), Err(why));
        }
    }

    #[test]
    fn a_lost_frame_pointer_is_only_missed_where_it_is_needed() {
        let words = [1, 2, 3, 4];
        let (ip, sp, fp) = caller(Rule::new(Kind::Sp, 1, Rule::FP_LOST), &words).unwrap();
        assert_eq!(fp, LOST);
        let regs = Regs { ip, sp, fp };
        assert!(step(&regs, Rule::new(Kind::Sp, 1, 0), &mut stack(&words)).is_ok());
        assert_eq!(step(&regs, Rule::new(Kind::Fp, 2, -2), &mut stack(&words)), Err(Stop::Register));
        assert_eq!(step_fp(&regs, &mut stack(&words)), Err(Stop::NoRow));
    }

    #[test]
    fn registers_that_wrap_do_not_advance() {
        let regs = Regs { ip: 1, sp: u64::MAX - 7, fp: u64::MAX - 7 };
        for kind in [Kind::Sp, Kind::Fp, Kind::Plt] {
            assert_eq!(step(&regs, Rule::new(kind, 2, 0), &mut stack(&[1])), Err(Stop::NotAdvancing));
        }
    }

    #[test]
    fn frame_pointers_are_followed_up_the_stack_only() {
        let words = [0x1020, 1, 2, 0x1028, 0x41_0000];
        let next = step_fp(&REGS, &mut stack(&words)).unwrap();
        assert_eq!(next.regs, Regs { ip: 0x41_0000, sp: 0x1028, fp: 0x1028 });
        for fp in [0x1019, 0xff8, 0x1000 + (8 << 20) + 8, u64::MAX - 7] {
            assert_eq!(step_fp(&Regs { fp, ..REGS }, &mut stack(&words)), Err(Stop::NoRow), "{fp:#x}");
        }
        assert_eq!(step_fp(&Regs { fp: 0, ..REGS }, &mut stack(&words)), Err(Stop::Outermost));
        assert_eq!(step_fp(&Regs { fp: 0x1100, ..REGS }, &mut stack(&words)), Err(Stop::BadRead));
    }
}
