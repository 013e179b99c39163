//! One row of call frame information as an 8-byte rule, or the reason why it is none.

use gimli::{CfaRule, EhFrame, EndianSlice, LittleEndian, Register, RegisterRule, X86_64};
use leaktrace_common::unwind::{Kind, Rule, Stop};

use super::expression::{Expression, recognize};

type Slice<'data> = EndianSlice<'data, LittleEndian>;

/// Where a ucontext keeps rsp and, relative to it, rip and rbp: `uc_mcontext.gregs` of x86-64 `<sys/ucontext.h>`.
const CONTEXT_RSP: i64 = 160;
const CONTEXT_RIP: i64 = CONTEXT_RSP + 8;
const CONTEXT_RBP: i64 = CONTEXT_RSP - 40;

/// The three columns of a row that a walk needs.
pub(super) struct Columns<'a> {
    pub cfa: &'a CfaRule<usize>,
    pub return_address: Option<RegisterRule<usize>>,
    pub frame_pointer: Option<RegisterRule<usize>>,
}

/// The rule for a row.
pub(super) fn rule(section: &EhFrame<Slice<'_>>, columns: &Columns<'_>) -> Rule {
    convert(section, columns).unwrap_or_else(Rule::unsupported)
}

fn convert(section: &EhFrame<Slice<'_>>, columns: &Columns<'_>) -> Result<Rule, Stop> {
    match columns.return_address {
        Some(RegisterRule::Offset(-8)) => {}
        // Without a return address the walk cannot go on: the ABI's own unwinder takes such a frame for the outermost.
        None | Some(RegisterRule::Undefined) => return Ok(Rule::OUTERMOST),
        Some(RegisterRule::Expression(_)) => return signal(section, columns),
        Some(RegisterRule::Offset(_) | RegisterRule::ValOffset(_)) => return Err(Stop::Offset),
        Some(RegisterRule::Register(_) | RegisterRule::SameValue) => return Err(Stop::Register),
        Some(_) => return Err(Stop::Expression),
    }
    match columns.cfa {
        CfaRule::RegisterAndOffset { register, offset } => {
            cfa_register(*register, *offset, saved_frame_pointer(columns))
        }
        CfaRule::Expression(expression) => match recognize(section, expression).ok_or(Stop::Expression)? {
            Expression::Sum(register, offset) => cfa_register(register, offset, saved_frame_pointer(columns)),
            Expression::Plt(limit @ 0..16) => Ok(Rule::new(Kind::Plt, limit as u32, saved_frame_pointer(columns))),
            Expression::Loaded(X86_64::RSP, offset, 8) => {
                Ok(Rule::new(Kind::SpDeref, words(offset)?, saved_frame_pointer(columns)))
            }
            Expression::Loaded(X86_64::RBP, offset, 0) => {
                let n = frame_pointer_by_itself(section, columns)?;
                Ok(Rule::new(Kind::FpDeref, words(offset.checked_neg().ok_or(Stop::Offset)?)?, n))
            }
            Expression::Loaded(X86_64::RSP | X86_64::RBP, ..) | Expression::Plt(_) => Err(Stop::Expression),
            Expression::Loaded(..) => Err(Stop::Register),
        },
    }
}

fn cfa_register(register: Register, offset: i64, n: i8) -> Result<Rule, Stop> {
    let kind = match register {
        X86_64::RSP => Kind::Sp,
        X86_64::RBP => Kind::Fp,
        _ => return Err(Stop::Register),
    };
    Ok(Rule::new(kind, words(offset)?, n))
}

/// An offset in words, where a rule can hold it.
fn words(offset: i64) -> Result<u32, Stop> {
    if offset % 8 != 0 {
        return Err(Stop::Offset);
    }
    u32::try_from(offset / 8).ok().filter(|&words| words <= Rule::MAX_OFFSET).ok_or(Stop::Offset)
}

/// Where the frame pointer is saved relative to the CFA, as a rule's `n`. If the rule cannot express that, only the frame
/// pointer is lost, not the frame: most frames do not need it.
fn saved_frame_pointer(columns: &Columns<'_>) -> i8 {
    match columns.frame_pointer {
        None | Some(RegisterRule::SameValue) => 0,
        Some(RegisterRule::Offset(offset)) => small_words(offset).filter(|&n| n != 0).unwrap_or(Rule::FP_LOST),
        Some(_) => Rule::FP_LOST,
    }
}

/// Where the frame pointer is saved relative to itself.
fn frame_pointer_by_itself(section: &EhFrame<Slice<'_>>, columns: &Columns<'_>) -> Result<i8, Stop> {
    let Some(RegisterRule::Expression(expression)) = &columns.frame_pointer else { return Err(Stop::Expression) };
    match recognize(section, expression) {
        Some(Expression::Sum(X86_64::RBP, offset)) => small_words(offset).ok_or(Stop::Offset),
        _ => Err(Stop::Expression),
    }
}

fn small_words(offset: i64) -> Option<i8> {
    if offset % 8 != 0 { None } else { i8::try_from(offset / 8).ok().filter(|&n| n != Rule::FP_LOST) }
}

/// The frame of a signal's return trampoline (glibc's `__restore_rt`): every register from the ucontext that lies at the
/// stack pointer plus some distance.
fn signal(section: &EhFrame<Slice<'_>>, columns: &Columns<'_>) -> Result<Rule, Stop> {
    let CfaRule::Expression(cfa) = columns.cfa else { return Err(Stop::Expression) };
    let (Some(RegisterRule::Expression(ip)), Some(RegisterRule::Expression(fp))) =
        (&columns.return_address, &columns.frame_pointer)
    else {
        return Err(Stop::Expression);
    };
    match (recognize(section, cfa), recognize(section, ip), recognize(section, fp)) {
        (
            Some(Expression::Loaded(X86_64::RSP, cfa, 0)),
            Some(Expression::Sum(X86_64::RSP, ip)),
            Some(Expression::Sum(X86_64::RSP, fp)),
        ) if ip - cfa == CONTEXT_RIP - CONTEXT_RSP && fp - cfa == CONTEXT_RBP - CONTEXT_RSP => {
            Ok(Rule::new(Kind::Signal, words(cfa)?, 0))
        }
        _ => Err(Stop::Expression),
    }
}
