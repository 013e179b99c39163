//! The few DWARF expressions that occur in `.eh_frame`, recognized by their operations.

use gimli::{EhFrame, EndianSlice, LittleEndian, Operation, Register, UnwindExpression, X86_64};

type Slice<'data> = EndianSlice<'data, LittleEndian>;

/// Operations in the longest known expression.
const MAX_OPERATIONS: usize = 9;

/// DWARF expressions in `.eh_frame` have no unit; this only sets the size of an address and the format of offsets.
const ENCODING: gimli::Encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };

/// An expression that is recognized: what it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expression {
    /// register + offset
    Sum(Register, i64),
    /// *(register + offset) + addend
    Loaded(Register, i64, u64),
    /// rsp + 8 + 8·((rip & 15) ≥ limit), as linkers write it for `.plt`
    Plt(u64),
}

/// Recognizes an expression, `None` for all others.
pub(super) fn recognize(section: &EhFrame<Slice<'_>>, expression: &UnwindExpression<usize>) -> Option<Expression> {
    use Operation::{And, Deref, Ge, Plus, PlusConstant, RegisterOffset, Shl, UnsignedConstant};

    let mut operations = expression.get(section).ok()?.operations(ENCODING);
    let mut found = Vec::with_capacity(MAX_OPERATIONS);
    while let Some(operation) = operations.next().ok()? {
        if found.len() == MAX_OPERATIONS {
            return None;
        }
        found.push(operation);
    }
    match *found.as_slice() {
        [RegisterOffset { register, offset, .. }] => Some(Expression::Sum(register, offset)),
        [RegisterOffset { register, offset, .. }, Deref { size: 8, space: false, .. }] => {
            Some(Expression::Loaded(register, offset, 0))
        }
        [RegisterOffset { register, offset, .. }, Deref { size: 8, space: false, .. }, PlusConstant { value }] => {
            Some(Expression::Loaded(register, offset, value))
        }
        [
            RegisterOffset { register: X86_64::RSP, offset: 8, .. },
            RegisterOffset { register: X86_64::RA, offset: 0, .. },
            UnsignedConstant { value: 15 },
            And,
            UnsignedConstant { value: limit },
            Ge,
            UnsignedConstant { value: 3 },
            Shl,
            Plus,
        ] => Some(Expression::Plt(limit)),
        _ => None,
    }
}
