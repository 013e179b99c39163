//! A small machine language that looks like compiled functions, and its x86-64 encoding by hand.

/// A general register by its number; 4 is the stack pointer, 5 the frame pointer.
pub type Reg = u8;

pub const RSP: Reg = 4;
pub const RBP: Reg = 5;

/// One instruction. Jump targets are indices of instructions; what lies beyond the last is another function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Push(Reg),
    Pop(Reg),
    /// `mov %source, %destination`
    Copy(Reg, Reg),
    /// The same with 32 bits, which clears the upper half.
    CopyHalf(Reg, Reg),
    /// A constant.
    Set(Reg, i32),
    /// From a variable of the program.
    LoadGlobal(Reg),
    /// `mov displacement(%base), %destination`
    Load(Reg, Reg, i8),
    /// `mov %source, displacement(%rsp)`
    StoreFrame(i8, Reg),
    /// `mov %source, displacement(%base)`
    Store(Reg, i8, Reg),
    /// `lea displacement(%base), %destination`
    Lea(Reg, Reg, i8),
    /// `sub $bytes, %rsp`, by `add` if negative.
    Reserve(i8),
    /// `lea -bytes(%rsp), %rsp`
    ReserveByLea(i8),
    AddTo(Reg, i8),
    Clear(Reg),
    Test(Reg, Reg),
    /// `cmove %source, %destination`
    CopyIf(Reg, Reg),
    /// `mul %by`: writes rax and rdx.
    Multiply(Reg),
    Exchange(Reg, Reg),
    /// `jcc`, with an 8-bit displacement if `short`.
    JumpIf {
        condition: u8,
        to: usize,
        short: bool,
    },
    Jump {
        to: usize,
        short: bool,
    },
    /// `jmp` to another function.
    Leave,
    /// `jcc` to another function.
    LeaveIf(u8),
    /// `jmp *%register`
    JumpTo(Reg),
    /// `notrack jmp *%register`
    JumpToMarked(Reg),
    /// `jmp *table(,%index,8)`
    JumpByTable(Reg),
    /// `jmp *global(%rip)`
    LeaveByGlobal,
    Call,
    CallTo(Reg),
    SystemCall,
    Pause,
    EndBranch,
    Nop,
    WordNop,
    LongNop,
    /// `lock incq displacement(%rsp)`
    LockedIncrement(i8),
    Return,
}

/// The bytes of the function, and the offset at which each instruction begins; `None` if a short jump goes too far.
pub fn assemble(ops: &[Op]) -> Option<(Vec<u8>, Vec<usize>)> {
    let mut offsets = Vec::new();
    let mut end = 0;
    for op in ops {
        offsets.push(end);
        end += encode(op, 0, 0, 0)?.len();
    }
    offsets.push(end);
    let mut code = Vec::new();
    for (op, at) in ops.iter().zip(&offsets) {
        let to = match op {
            Op::JumpIf { to, .. } | Op::Jump { to, .. } => offsets[*to],
            _ => end + 0x1000,
        };
        code.extend(encode(op, *at as i64, to as i64, end as i64)?);
    }
    offsets.pop();
    Some((code, offsets))
}

/// One instruction at `at` whose jump leads to `to`.
fn encode(op: &Op, at: i64, to: i64, end: i64) -> Option<Vec<u8>> {
    let wide = |reg: Reg, rm: Reg| 0x48 | (reg >> 3) << 2 | rm >> 3;
    let both = |reg: Reg, rm: Reg| 0xc0 | (reg & 7) << 3 | rm & 7;
    // A base with an 8-bit displacement; rsp and r12 need an index byte.
    let based = |rex: u8, opcode: &[u8], reg: Reg, base: Reg, displacement: i8| {
        let mut bytes = vec![rex];
        bytes.extend(opcode);
        bytes.push(0x40 | (reg & 7) << 3 | base & 7);
        if base & 7 == 4 {
            bytes.push(0x24);
        }
        bytes.push(displacement as u8);
        bytes
    };
    let near = |opcode: &[u8]| {
        let displacement = (to - at - opcode.len() as i64 - 4) as i32;
        [opcode, &displacement.to_le_bytes()].concat()
    };
    let short = |opcode: u8| {
        // Lengths are asked for before anything has a place.
        let displacement = if end == 0 { 0 } else { i8::try_from(to - at - 2).ok()? };
        Some(vec![opcode, displacement as u8])
    };
    Some(match *op {
        Op::Push(reg) if reg < 8 => vec![0x50 + reg],
        Op::Push(reg) => vec![0x41, 0x50 + (reg & 7)],
        Op::Pop(reg) if reg < 8 => vec![0x58 + reg],
        Op::Pop(reg) => vec![0x41, 0x58 + (reg & 7)],
        Op::Copy(to, from) => vec![wide(from, to), 0x89, both(from, to)],
        Op::CopyHalf(to, from) => vec![wide(from, to) & !8, 0x89, both(from, to)],
        Op::Set(to, value) => [&[wide(0, to), 0xc7, both(0, to)], &value.to_le_bytes()[..]].concat(),
        Op::LoadGlobal(to) => vec![wide(to, 0), 0x8b, 0x05 | (to & 7) << 3, 0x44, 0x33, 0x22, 0x01],
        Op::Load(to, base, displacement) => based(wide(to, base), &[0x8b], to, base, displacement),
        Op::StoreFrame(displacement, from) => based(wide(from, RSP), &[0x89], from, RSP, displacement),
        Op::Store(base, displacement, from) => based(wide(from, base), &[0x89], from, base, displacement),
        Op::Lea(to, base, displacement) => based(wide(to, base), &[0x8d], to, base, displacement),
        Op::Reserve(bytes) if bytes >= 0 => vec![0x48, 0x83, 0xec, bytes as u8],
        Op::Reserve(bytes) => vec![0x48, 0x83, 0xc4, bytes.unsigned_abs()],
        Op::ReserveByLea(bytes) => based(0x48, &[0x8d], RSP, RSP, bytes.checked_neg()?),
        Op::AddTo(to, value) => vec![wide(0, to), 0x83, both(0, to), value as u8],
        Op::Clear(reg) => vec![wide(reg, reg) & !8, 0x31, both(reg, reg)],
        Op::Test(a, b) => vec![wide(b, a), 0x85, both(b, a)],
        Op::CopyIf(to, from) => vec![wide(to, from), 0x0f, 0x44, both(to, from)],
        Op::Multiply(by) => vec![wide(4, by), 0xf7, both(4, by)],
        Op::Exchange(a, b) => vec![wide(b, a), 0x87, both(b, a)],
        Op::JumpIf { condition, short: true, .. } => short(0x70 | condition)?,
        Op::JumpIf { condition, .. } | Op::LeaveIf(condition) => near(&[0x0f, 0x80 | condition]),
        Op::Jump { short: true, .. } => short(0xeb)?,
        Op::Jump { .. } | Op::Leave => near(&[0xe9]),
        Op::JumpTo(reg) => vec![0x40 | reg >> 3, 0xff, 0xe0 | reg & 7],
        Op::JumpToMarked(reg) => vec![0x3e, 0x40 | reg >> 3, 0xff, 0xe0 | reg & 7],
        Op::JumpByTable(index) => vec![0x40 | (index >> 3) << 1, 0xff, 0x24, 0xc5 | (index & 7) << 3, 0, 0x10, 0, 0],
        Op::LeaveByGlobal => vec![0xff, 0x25, 0x44, 0x33, 0x22, 0x01],
        Op::Call => near(&[0xe8]),
        Op::CallTo(reg) => vec![0x40 | reg >> 3, 0xff, 0xd0 | reg & 7],
        Op::SystemCall => vec![0x0f, 0x05],
        Op::Pause => vec![0xf3, 0x90],
        Op::EndBranch => vec![0xf3, 0x0f, 0x1e, 0xfa],
        Op::Nop => vec![0x90],
        Op::WordNop => vec![0x66, 0x90],
        Op::LongNop => vec![0x0f, 0x1f, 0x44, 0x00, 0x00],
        Op::LockedIncrement(displacement) => [vec![0xf0], based(0x48, &[0xff], 0, RSP, displacement)].concat(),
        Op::Return => vec![0xc3],
    })
}

#[test]
fn bytes_are_those_of_the_gnu_assembler() {
    // as(1): push %r12; mov %rdi,%rsi; mov 0x8(%rsp),%rax; mov %r9,-0x8(%rsp); sub $0x18,%rsp; lea -0x80(%rsp),%rsp is
    // out of reach here, so lea -0x40(%rsp),%rsp; test %rdi,%rdi; cmove %r8,%rax; mul %rsi; lea 0x8(%r12),%rdx.
    let ops = [
        Op::Push(12),
        Op::Copy(6, 7),
        Op::Load(0, RSP, 8),
        Op::StoreFrame(-8, 9),
        Op::Reserve(24),
        Op::ReserveByLea(64),
        Op::Test(7, 7),
        Op::CopyIf(0, 8),
        Op::Multiply(6),
        Op::Lea(2, 12, 8),
    ];
    let (code, offsets) = assemble(&ops).unwrap();
    let expected: &[&[u8]] = &[
        &[0x41, 0x54],
        &[0x48, 0x89, 0xfe],
        &[0x48, 0x8b, 0x44, 0x24, 0x08],
        &[0x4c, 0x89, 0x4c, 0x24, 0xf8],
        &[0x48, 0x83, 0xec, 0x18],
        &[0x48, 0x8d, 0x64, 0x24, 0xc0],
        &[0x48, 0x85, 0xff],
        &[0x49, 0x0f, 0x44, 0xc0],
        &[0x48, 0xf7, 0xe6],
        &[0x49, 0x8d, 0x54, 0x24, 0x08],
    ];
    assert_eq!(code, expected.concat());
    assert_eq!(offsets, [0, 2, 5, 10, 15, 19, 24, 27, 31, 34]);
}
