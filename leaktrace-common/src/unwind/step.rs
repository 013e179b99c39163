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
/// Reads at most three words, each at one place in the code: every further place multiplies what the verifier has to
/// look at.
///
/// # Errors
/// Why there is no caller to go on with. [`Stop::NoRow`] stands for a rule of [`Kind::Gap`]: [`by_frame_pointer`] may
/// then lead on.
#[inline(always)]
pub fn step(regs: &Regs, rule: Rule, memory: &mut impl Memory) -> Result<Next, Stop> {
    let (kind, off) = (rule.kind(), rule.off_bytes());
    if let Kind::Fp | Kind::FpDeref = kind
        && regs.fp == LOST
    {
        return Err(Stop::Register);
    }
    let cfa = match kind {
        Kind::Sp => regs.sp.wrapping_add(off),
        Kind::Fp => regs.fp.wrapping_add(off),
        Kind::Plt => regs.sp.wrapping_add(8 + 8 * u64::from((regs.ip & 15) >= u64::from(rule.off()))),
        Kind::FpDeref | Kind::SpDeref | Kind::Signal => {
            let place = if kind == Kind::FpDeref { regs.fp.wrapping_sub(off) } else { regs.sp.wrapping_add(off) };
            let loaded = read(memory, place)?;
            if kind == Kind::SpDeref { loaded.wrapping_add(8) } else { loaded }
        }
        Kind::Outermost => return Err(Stop::Outermost),
        Kind::Gap if off != 0 && regs.ip.is_multiple_of(16) => return Err(Stop::Outermost),
        Kind::Unsupported => return Err(unsupported(rule)),
        Kind::None | Kind::Gap => return Err(Stop::NoRow),
    };
    let (ip_place, fp_place) = match kind {
        // The interrupted stack pointer may be anywhere: handlers run on stacks of their own.
        Kind::Signal => {
            let saved_sp = regs.sp.wrapping_add(off);
            (saved_sp.wrapping_add(8), saved_sp.wrapping_sub(SIGNAL_FP_BELOW_SP))
        }
        _ if cfa <= regs.sp => return Err(Stop::NotAdvancing),
        Kind::FpDeref => (cfa.wrapping_sub(8), regs.fp.wrapping_add(rule.n_bytes())),
        _ => (cfa.wrapping_sub(8), cfa.wrapping_add(rule.n_bytes())),
    };
    let ip = read(memory, ip_place)?;
    // A return address of zero ends the stacks of threads and coroutines that were built by hand.
    if ip == 0 {
        return Err(Stop::Outermost);
    }
    let fp = if rule.n() == 0 && kind != Kind::FpDeref && kind != Kind::Signal {
        regs.fp
    } else if rule.n() == Rule::FP_LOST {
        LOST
    } else {
        read(memory, fp_place)?
    };
    Ok(Next { regs: Regs { ip, sp: cfa, fp }, exact: kind == Kind::Signal })
}

/// [`step`] for the two kinds of rule that nearly every frame has, for that of the outermost one, and for those only: what
/// the kernel program inlines into its loop.
///
/// # Errors
/// As [`step`].
#[inline(always)]
pub fn step_plain(regs: &Regs, rule: Rule, memory: &mut impl Memory) -> Result<Regs, Stop> {
    if let Kind::Outermost = rule.kind() {
        return Err(Stop::Outermost);
    }
    let base = if let Kind::Sp = rule.kind() { regs.sp } else { regs.fp };
    let cfa = base.wrapping_add(rule.off_bytes());
    if cfa <= regs.sp {
        return Err(Stop::NotAdvancing);
    }
    let ip = read(memory, cfa.wrapping_sub(8))?;
    if ip == 0 {
        return Err(Stop::Outermost);
    }
    let fp = if rule.n() == 0 { regs.fp } else { read(memory, cfa.wrapping_add(rule.n_bytes()))? };
    Ok(Regs { ip, sp: cfa, fp })
}

/// The rule for code without rows: (ip, sp, fp) = (*(fp + 8), fp + 16, *fp), the frame record that x86-64's `push %rbp;
/// mov %rsp, %rbp` and aarch64's `stp x29, x30, [sp, …]!; mov x29, sp` build alike. Whoever applies it must see to it that
/// the resulting ip lies in code: the register may hold anything.
///
/// # Errors
/// [`Stop::Outermost`] at a frame pointer of zero (the ABI's mark of the deepest frame), [`Stop::NoRow`] where it
/// cannot be a frame pointer.
#[inline(always)]
pub fn by_frame_pointer(regs: &Regs) -> Result<Rule, Stop> {
    if regs.fp == 0 {
        return Err(Stop::Outermost);
    }
    // Below the stack pointer the difference wraps and is out of reach as well.
    if regs.fp & 7 != 0 || regs.fp.wrapping_sub(regs.sp) > MAX_FP_DISTANCE {
        return Err(Stop::NoRow);
    }
    Ok(Rule::new(Kind::Fp, 2, -2))
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
    use super::{LOST, Next, Regs, by_frame_pointer, step};
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

    fn step_fp(regs: &Regs, memory: &mut impl FnMut(u64) -> Option<u64>) -> Result<Next, Stop> {
        step(regs, by_frame_pointer(regs)?, memory)
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
