//! A walk in progress: the part of the loop over frames that is the same in the kernel program and on the host. The
//! loop itself is not here, because the kernel wants it cut into callbacks.
//!
//! ```text
//! loop {
//!     rule = rule for walk.lookup_address(), from the cache or by find_rule
//!     if let Some(stop) = walk.refuses(rule) { break stop }
//!     record walk.ip()
//!     walk.advance(rule, may_guess, memory)?
//! }
//! ```

use super::{Chunks, Kind, Memory, ProcessWord, Regs, Rule, Stop, Table, by_frame_pointer, find_mapping, lookup, step};

/// The frame that a walk has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walk {
    regs: Regs,
    exact: bool,
    /// Why the frame pointer had to be followed to get here; [`Stop::Outermost`] where it had not.
    guessed: Stop,
}

impl Walk {
    /// A walk that starts in the frame with these registers, `ip` being a return address.
    #[inline(always)]
    #[must_use]
    pub const fn from_return(regs: Regs) -> Self {
        Self { regs, exact: false, guessed: Stop::Outermost }
    }

    /// A walk that starts at the instruction `regs.ip`.
    #[inline(always)]
    #[must_use]
    pub const fn from_instruction(regs: Regs) -> Self {
        Self { regs, exact: true, guessed: Stop::Outermost }
    }

    /// A walk that was put aside: [`Self::regs`] and [`Self::state`].
    #[inline(always)]
    #[must_use]
    pub fn resume(regs: Regs, state: u64) -> Self {
        let guessed = match (state >> 1) as u32 {
            c if c == Stop::NoMapping as u32 => Stop::NoMapping,
            c if c == Stop::NoRow as u32 => Stop::NoRow,
            c if c == Stop::NoTable as u32 => Stop::NoTable,
            c if c == Stop::TablePending as u32 => Stop::TablePending,
            _ => Stop::Outermost,
        };
        Self { regs, exact: state & 1 != 0, guessed }
    }

    /// All of the walk but its registers, in one word. 0: at a return address, found by a row.
    #[inline(always)]
    #[must_use]
    pub const fn state(&self) -> u64 {
        (self.guessed as u64) << 1 | self.exact as u64
    }

    /// The frame's address: its return address, or the instruction that a signal interrupted.
    #[inline(always)]
    #[must_use]
    pub const fn ip(&self) -> u64 {
        self.regs.ip
    }

    /// The frame's registers.
    #[inline(always)]
    #[must_use]
    pub const fn regs(&self) -> Regs {
        self.regs
    }

    /// True where [`Self::ip`] is an instruction itself and not a return address.
    #[inline(always)]
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.exact
    }

    /// True where the frame pointer led here, for want of a row.
    #[inline(always)]
    #[must_use]
    pub const fn is_guess(&self) -> bool {
        !self.guessed.is_complete()
    }

    /// True where the frame pointer led here, for want of a table that is still to come.
    #[inline(always)]
    #[must_use]
    pub fn is_premature(&self) -> bool {
        self.guessed == Stop::TablePending
    }

    /// The address to look a rule up for: inside the call instruction, which may be the last one of its function.
    #[inline(always)]
    #[must_use]
    pub const fn lookup_address(&self) -> u64 {
        self.regs.ip.wrapping_sub(!self.exact as u64)
    }

    /// Why this frame is not one and must not be recorded: a frame pointer led to it, and it does not lie in code.
    #[inline(always)]
    #[must_use]
    pub fn refuses(&self, rule: Rule) -> Option<Stop> {
        if self.is_guess() && rule == Rule::unsupported(Stop::NoMapping) { Some(self.guessed) } else { None }
    }

    /// Goes on to the caller. `rule` is the one for [`Self::lookup_address`]; where it is none, frame pointers are
    /// followed if `may_guess`.
    ///
    /// # Errors
    /// Why the walk ends here.
    #[inline(always)]
    pub fn advance(&mut self, rule: Rule, may_guess: bool, memory: &mut impl Memory) -> Result<(), Stop> {
        let mut guessed = Stop::Outermost;
        let mut rule = rule;
        if let Some(why) = missing(rule, self.regs.ip)
            && may_guess
        {
            rule = match by_frame_pointer(&self.regs) {
                Ok(rule) => rule,
                // Code that has a table or is in a mapping, though not known yet, need not keep frame pointers: in its
                // hands the register's zero may still be that of the program's first instruction.
                Err(Stop::Outermost) if why != Stop::TablePending && why != Stop::NoMapping => {
                    return Err(Stop::Outermost);
                }
                Err(_) => return Err(why),
            };
            guessed = why;
        }
        match step(&self.regs, rule, memory) {
            Ok(next) => {
                *self = Self { regs: next.regs, exact: next.exact, guessed };
                Ok(())
            }
            // What a guess meets is not the guess's fault.
            Err(why) if guessed.is_complete() || why.is_complete() => Err(why),
            Err(_) => Err(guessed),
        }
    }
}

/// Why `rule` is none, where frame pointers may lead on.
#[inline(always)]
fn missing(rule: Rule, ip: u64) -> Option<Stop> {
    match rule.kind() {
        Kind::None => Some(Stop::NoRow),
        Kind::Gap if rule.off() == 0 || !ip.is_multiple_of(16) => Some(Stop::NoRow),
        Kind::Unsupported if rule.off() == Stop::NoMapping as u32 => Some(Stop::NoMapping),
        Kind::Unsupported if rule.off() == Stop::NoTable as u32 => Some(Stop::NoTable),
        Kind::Unsupported if rule.off() == Stop::TablePending as u32 => Some(Stop::TablePending),
        _ => None,
    }
}

/// The rule for `address` in a process, by searching its mappings and then the mapping's table. Where there is no row to
/// return, the rule is [`Kind::Unsupported`] with the reason.
#[inline(always)]
#[must_use]
pub fn find_rule<C: Chunks + ?Sized>(chunks: &C, process: ProcessWord, address: u64) -> Rule {
    if process == ProcessWord::default() {
        return Rule::unsupported(Stop::TablePending);
    }
    let Some(mapping) = find_mapping(chunks, process, address) else { return Rule::unsupported(Stop::NoMapping) };
    match mapping.table {
        Table::Absent => Rule::unsupported(Stop::NoTable),
        Table::Pending => Rule::unsupported(Stop::TablePending),
        Table::Trampoline => Rule::unsupported(Stop::Trampoline),
        Table::Chunks { first, count } => {
            let relative = address.wrapping_sub(mapping.base);
            if relative > u64::from(u32::MAX) { Rule::GAP } else { lookup(chunks, first, count, relative as u32) }
        }
    }
}

/// True where the rule may be kept for as long as the process' list of mappings stays: not where a table or a mapping is
/// still to come.
#[inline(always)]
#[must_use]
pub fn is_cacheable(rule: Rule) -> bool {
    rule.kind() as u8 != Kind::Unsupported as u8
        || (rule.off() != Stop::NoMapping as u32 && rule.off() != Stop::TablePending as u32)
}

#[cfg(test)]
mod tests {
    use super::{Regs, Rule, Stop, Walk};

    /// A frame whose frame pointer is zero, and what becomes of the walk there.
    fn at_frame_pointer_zero(rule: Rule) -> Result<(), Stop> {
        Walk::from_return(Regs { ip: 0x1234, sp: 0x7000, fp: 0 }).advance(rule, true, &mut |_| None)
    }

    #[test]
    fn a_frame_pointer_of_zero_ends_the_stack_only_where_nothing_better_is_to_come() {
        for rule in [Rule::GAP, Rule::unsupported(Stop::NoTable)] {
            assert_eq!(at_frame_pointer_zero(rule), Err(Stop::Outermost));
        }
        for why in [Stop::TablePending, Stop::NoMapping] {
            assert_eq!(at_frame_pointer_zero(Rule::unsupported(why)), Err(why));
        }
    }
}
