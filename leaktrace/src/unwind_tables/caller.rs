//! A frame's caller with all of its registers, by the call frame instructions themselves: for a few frames, where the rows of
//! [`UnwindTable`](super::UnwindTable) keep only what a walk needs.
//!
//! In: an object's bytes, which may be hostile, the registers in a frame, and a way to read the stack. Out: the registers as they
//! are in the caller.

use gimli::{
    CfaRule, EhFrame, EndianSlice, LittleEndian, Register, RegisterRule, UnwindContext, UnwindSection, X86_64,
};

use super::unwindable::Unwindable;

/// Registers by their numbers in DWARF (System V ABI for x86-64, figure 3.36): rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8 to r15,
/// and the address of the next instruction.
pub type Frame = [u64; 17];
/// The stack pointer's place.
pub const STACK_POINTER: usize = 7;
/// The instruction's place.
pub const INSTRUCTION: usize = 16;

/// The frame that called `frame`, whose code lies at `address` in the object. Registers that a call need not keep have the values
/// of the inner frame.
#[must_use]
pub fn caller(object: &[u8], address: u64, frame: &Frame, read: &dyn Fn(u64) -> Option<u64>) -> Option<Frame> {
    let object = Unwindable::parse(object).ok()?;
    let mut section = EhFrame::new(object.eh_frame, LittleEndian);
    section.set_address_size(8);
    let fde =
        section.fde_for_address(&object.bases, address, EhFrame::<EndianSlice<'_, LittleEndian>>::cie_from_offset);
    let fde = fde.ok()?;
    let mut context = UnwindContext::new();
    let row = fde.unwind_info_for_address(&section, &object.bases, &mut context, address).ok()?;
    let value = |register: Register| frame.get(usize::from(register.0)).copied();
    let CfaRule::RegisterAndOffset { register, offset } = *row.cfa() else { return None };
    let top = value(register)?.wrapping_add_signed(offset);
    let mut outer = *frame;
    // Where nothing else is said: the stack is as it was before the call.
    outer[STACK_POINTER] = top;
    for (number, word) in outer.iter_mut().enumerate() {
        *word = match row.register(Register(number as u16)) {
            None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => continue,
            Some(RegisterRule::Offset(offset)) => read(top.wrapping_add_signed(offset))?,
            Some(RegisterRule::ValOffset(offset)) => top.wrapping_add_signed(offset),
            Some(RegisterRule::Register(other)) => value(other)?,
            Some(_) => return None,
        };
    }
    // Else it would be its own caller.
    matches!(row.register(X86_64::RA), Some(RegisterRule::Offset(_))).then_some(outer)
}
