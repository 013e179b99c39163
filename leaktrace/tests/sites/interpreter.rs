//! Executes programs, and watches that a probe at a site would see exactly what one at the entry sees.
//!
//! Conditions are taken at random, and a jump to a place computed at run time may lead anywhere in the function: whatever
//! some run of a real processor could do, some run here does, if only one looks often enough.

use std::collections::HashMap;

use leaktrace::probes::functions::Signature;
use leaktrace::probes::site::Site;

use super::program::{Op, RBP, RSP, Reg};

/// Instructions executed before a run is given up; loops do not end by themselves.
const MAX_STEPS: usize = 120;

/// The registers of the first six C arguments (System V AMD64 ABI 3.2.3).
const ARGUMENTS: [Reg; 6] = [7, 6, 2, 1, 8, 9];

/// A random number generator (xorshift64*): the same seed, the same run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A call of the function whose probe has not fired yet.
struct Pending {
    registers: [u64; 16],
    /// Whether it has done what others can see.
    acted: bool,
}

/// One thread in one function.
struct Run<'a> {
    ops: &'a [Op],
    random: &'a mut Random,
    registers: [u64; 16],
    /// Whether a register holds a pointer that was loaded from a fixed place.
    plain: [bool; 16],
    frame: HashMap<u64, u64>,
    /// Where the stack pointer was when the caller entered the function.
    entry_stack: u64,
}

/// Runs the function once from its entry; the error says how a probe at `site`, which is instruction `site_index`, would
/// have gone wrong.
pub fn run(
    ops: &[Op],
    site: &Site,
    site_index: usize,
    signature: Signature,
    random: &mut Random,
) -> Result<(), String> {
    let mut registers = [0; 16];
    registers.fill_with(|| random.next());
    registers[usize::from(RSP)] = 0x7fff_0000_0008;
    let mut run = Run {
        ops,
        entry_stack: registers[usize::from(RSP)],
        registers,
        plain: [true; 16],
        frame: HashMap::new(),
        random,
    };
    let mut pending: Option<Pending> = None;
    let mut at = 0;
    for _ in 0..MAX_STEPS {
        if at == 0 {
            if pending.is_some() {
                return Err("the entry was passed again before the site".to_owned());
            }
            // A jump back to the entry is a call like any other: it comes with arguments and a stack of its own.
            run.entry_stack = run.registers[usize::from(RSP)];
            pending = Some(Pending { registers: run.registers, acted: false });
        }
        if at == site_index {
            let call = pending.take().ok_or("the site was passed without the entry")?;
            run.check(site, signature, &call)?;
        }
        // Past the last instruction another function begins.
        let Some(op) = ops.get(at) else { return left(pending.is_some()) };
        if run.acts(op)
            && let Some(pending) = &mut pending
        {
            pending.acted = true;
        }
        match run.step(op, at) {
            Some(next) => at = next,
            None => return left(pending.is_some()),
        }
    }
    Ok(())
}

fn left(before_the_site: bool) -> Result<(), String> {
    if before_the_site { Err("the function was left before the site".to_owned()) } else { Ok(()) }
}

impl Run<'_> {
    fn get(&self, reg: Reg) -> u64 {
        self.registers[usize::from(reg)]
    }

    fn set(&mut self, reg: Reg, value: u64) {
        self.registers[usize::from(reg)] = value;
        self.plain[usize::from(reg)] = false;
    }

    /// What the program at the site finds, against what the call began with.
    fn check(&self, site: &Site, signature: Signature, call: &Pending) -> Result<(), String> {
        if call.acted {
            return Err("the function has acted before the site".to_owned());
        }
        let then = |reg: Reg| call.registers[usize::from(reg)];
        if self.get(RSP).wrapping_add(site.stack_shift) != then(RSP) {
            return Err(format!("the stack pointer is {} lower", then(RSP).wrapping_sub(self.get(RSP))));
        }
        if signature.kind.needs_return() && site.stack_shift != 0 {
            return Err("a return probe would not find the return address".to_owned());
        }
        if self.get(RBP) != then(RBP) {
            return Err("the frame pointer has changed".to_owned());
        }
        for (slot, position) in signature.positions().into_iter().enumerate() {
            let found = self.get(site.arguments[slot].0);
            if signature.kind.reads()[slot] && found != then(ARGUMENTS[usize::from(position)]) {
                return Err(format!("argument {position} is not in {:?}", site.arguments[slot]));
            }
        }
        Ok(())
    }

    /// Whether others can see what the instruction does: memory outside the frame written, the kernel entered.
    fn acts(&self, op: &Op) -> bool {
        let outside = |base: u64, displacement: i8| {
            let address = base.wrapping_add_signed(i64::from(displacement));
            address.wrapping_add(8) > self.entry_stack || address < self.entry_stack.wrapping_sub(4096)
        };
        match *op {
            Op::StoreFrame(displacement, _) | Op::LockedIncrement(displacement) => outside(self.get(RSP), displacement),
            // Even where it happens to hit the frame, nobody can know that beforehand.
            Op::Store(..) | Op::Call | Op::CallTo(_) | Op::SystemCall => true,
            Op::Push(_) => outside(self.get(RSP), -8),
            _ => false,
        }
    }

    /// Executes one instruction; `None` when the function is left.
    fn step(&mut self, op: &Op, at: usize) -> Option<usize> {
        let taken = self.random.next() & 1 == 1;
        match *op {
            Op::Push(reg) => {
                let (value, stack) = (self.get(reg), self.get(RSP).wrapping_sub(8));
                self.frame.insert(stack, value);
                self.set(RSP, stack);
            }
            Op::Pop(reg) => {
                let stack = self.get(RSP);
                let value = self.load(stack);
                self.set(RSP, stack.wrapping_add(8));
                self.set(reg, value);
            }
            Op::Copy(to, from) => self.set(to, self.get(from)),
            Op::CopyHalf(to, from) => self.set(to, u64::from(self.get(from) as u32)),
            Op::Set(to, value) => self.set(to, i64::from(value) as u64),
            Op::LoadGlobal(to) => {
                let value = self.random.next();
                self.set(to, value);
                self.plain[usize::from(to)] = true;
            }
            Op::Load(to, base, displacement) => {
                let plain = self.plain[usize::from(base)] && base != RSP && base != RBP;
                let value = self.load(self.get(base).wrapping_add_signed(i64::from(displacement)));
                self.set(to, value);
                self.plain[usize::from(to)] = plain;
            }
            Op::StoreFrame(displacement, from) => {
                let address = self.get(RSP).wrapping_add_signed(i64::from(displacement));
                self.frame.insert(address, self.get(from));
            }
            Op::Lea(to, base, displacement) => {
                self.set(to, self.get(base).wrapping_add_signed(i64::from(displacement)));
            }
            Op::Reserve(bytes) | Op::ReserveByLea(bytes) => {
                self.set(RSP, self.get(RSP).wrapping_sub(i64::from(bytes) as u64));
            }
            Op::AddTo(to, value) => self.set(to, self.get(to).wrapping_add_signed(i64::from(value))),
            Op::Clear(reg) => self.set(reg, 0),
            Op::CopyIf(to, from) => {
                if taken {
                    self.set(to, self.get(from));
                }
            }
            Op::Multiply(by) => {
                let product = u128::from(self.get(0)) * u128::from(self.get(by));
                self.set(0, product as u64);
                self.set(2, (product >> 64) as u64);
            }
            Op::Exchange(a, b) => {
                let (one, other) = (self.get(a), self.get(b));
                self.set(a, other);
                self.set(b, one);
            }
            Op::JumpIf { to, .. } if taken => return Some(to),
            Op::Jump { to, .. } => return Some(to),
            Op::LeaveIf(_) if taken => return None,
            Op::Leave | Op::LeaveByGlobal | Op::Return => return None,
            // A plainly loaded pointer leads to another function; anything else may be the address of a label.
            Op::JumpTo(reg) if self.plain[usize::from(reg)] => return None,
            Op::JumpTo(_) | Op::JumpToMarked(_) | Op::JumpByTable(_) => return Some(self.random.below(self.ops.len())),
            Op::Call | Op::CallTo(_) => {
                for reg in [0, 1, 2, 6, 7, 8, 9, 10, 11] {
                    let value = self.random.next();
                    self.set(reg, value);
                }
            }
            Op::SystemCall => {
                for reg in [0, 1, 11] {
                    let value = self.random.next();
                    self.set(reg, value);
                }
            }
            Op::JumpIf { .. }
            | Op::LeaveIf(_)
            | Op::Test(..)
            | Op::Store(..)
            | Op::LockedIncrement(_)
            | Op::Pause
            | Op::EndBranch
            | Op::Nop
            | Op::WordNop
            | Op::LongNop => {}
        }
        Some(at + 1)
    }

    fn load(&mut self, address: u64) -> u64 {
        let random = &mut *self.random;
        *self.frame.entry(address).or_insert_with(|| random.next())
    }
}
