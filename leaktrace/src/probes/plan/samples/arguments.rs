//! Where the arguments of a USDT probe are, as its note says in the assembler's language: `8@%rdi -4@-12(%rbp) 8@$64` on x86-64,
//! `8@x0 -4@[sp, 12] 8@64` on aarch64. Each is a width in bytes, negative for a signed number, and an operand.

use leaktrace_common::drawn::{
    ARGUMENT_CONSTANT, ARGUMENT_MEMORY, ARGUMENT_REGISTER, NO_REGISTER, SampleArgument, SampleArguments,
};

use crate::probes::site::Machine;

/// The arguments, in their order.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments(pub SampleArguments);

/// In the order of their numbers in instructions, each with 8, 4, 2 bytes and 1 byte.
const X86_64: [[&str; 4]; 16] = [
    ["rax", "eax", "ax", "al"],
    ["rcx", "ecx", "cx", "cl"],
    ["rdx", "edx", "dx", "dl"],
    ["rbx", "ebx", "bx", "bl"],
    ["rsp", "esp", "sp", "spl"],
    ["rbp", "ebp", "bp", "bpl"],
    ["rsi", "esi", "si", "sil"],
    ["rdi", "edi", "di", "dil"],
    ["r8", "r8d", "r8w", "r8b"],
    ["r9", "r9d", "r9w", "r9b"],
    ["r10", "r10d", "r10w", "r10b"],
    ["r11", "r11d", "r11w", "r11b"],
    ["r12", "r12d", "r12w", "r12b"],
    ["r13", "r13d", "r13w", "r13b"],
    ["r14", "r14d", "r14w", "r14b"],
    ["r15", "r15d", "r15w", "r15b"],
];
/// The stack pointer of aarch64, behind `x30`.
const AARCH64_SP: u8 = 31;

impl Arguments {
    /// The first `count` of them; `None` if one is missing or is where we cannot look.
    pub fn parse(text: &[u8], machine: Machine, count: usize) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut arguments = SampleArguments::default();
        let mut words = words(text);
        for argument in arguments.iter_mut().take(count) {
            *argument = parse(words.next()?, machine)?;
        }
        Some(Self(arguments))
    }
}

/// Parts of a text between spaces, none of which is in brackets.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0u32;
    text.split(move |letter: char| {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter.is_whitespace() && depth == 0
    })
    .filter(|word| !word.is_empty())
}

fn parse(word: &str, machine: Machine) -> Option<SampleArgument> {
    let (width, operand) = word.split_once('@')?;
    let width: i32 = width.parse().ok()?;
    if ![1, 2, 4, 8].contains(&width.unsigned_abs()) {
        return None;
    }
    let found = match machine {
        Machine::X86_64 => of_x86_64(operand),
        Machine::Aarch64 => of_aarch64(operand),
    }?;
    Some(SampleArgument { width: width.unsigned_abs() as u8, is_signed: u8::from(width < 0), ..found })
}

fn constant(value: i64) -> SampleArgument {
    SampleArgument {
        kind: ARGUMENT_CONSTANT,
        register: NO_REGISTER,
        index: NO_REGISTER,
        value,
        ..SampleArgument::default()
    }
}

fn of_x86_64(operand: &str) -> Option<SampleArgument> {
    if let Some(value) = operand.strip_prefix('$') {
        return value.parse().ok().map(constant);
    }
    let register = |name: &str| {
        let name = name.trim().strip_prefix('%')?;
        let number = X86_64.iter().position(|names| names.contains(&name))?;
        Some(number as u8)
    };
    if operand.starts_with('%') {
        return Some(SampleArgument { kind: ARGUMENT_REGISTER, register: register(operand)?, ..constant(0) });
    }
    let (displacement, rest) = operand.split_once('(')?;
    let mut parts = rest.strip_suffix(')')?.split(',');
    let base = match parts.next()? {
        "" => NO_REGISTER,
        name => register(name)?,
    };
    let index = parts.next().map_or(Some(NO_REGISTER), register)?;
    let shift = match parts.next().map_or(Some(1), |scale| scale.trim().parse::<u32>().ok())? {
        scale @ (1 | 2 | 4 | 8) => scale.ilog2() as u8,
        _ => return None,
    };
    let value = if displacement.is_empty() { 0 } else { displacement.parse().ok()? };
    let has_address = base != NO_REGISTER || index != NO_REGISTER;
    (parts.next().is_none() && has_address).then_some(SampleArgument {
        kind: ARGUMENT_MEMORY,
        register: base,
        index,
        shift,
        ..constant(value)
    })
}

fn of_aarch64(operand: &str) -> Option<SampleArgument> {
    let register = |name: &str| {
        let name = name.trim();
        if name == "sp" {
            return Some(AARCH64_SP);
        }
        let number = name.strip_prefix(['x', 'w'])?.parse::<u8>().ok()?;
        (number < AARCH64_SP).then_some(number)
    };
    if let Some(inside) = operand.strip_prefix('[') {
        let mut parts = inside.strip_suffix(']')?.split(',');
        let base = register(parts.next()?)?;
        let value = parts.next().map_or(Some(0), |value| value.trim().trim_start_matches('#').parse().ok())?;
        return parts.next().is_none().then_some(SampleArgument {
            kind: ARGUMENT_MEMORY,
            register: base,
            ..constant(value)
        });
    }
    match operand.trim_start_matches('#').parse() {
        Ok(value) => Some(constant(value)),
        Err(_) => Some(SampleArgument { kind: ARGUMENT_REGISTER, register: register(operand)?, ..constant(0) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x86(text: &str) -> Option<[SampleArgument; 3]> {
        let count = words(text).count().min(3);
        Arguments::parse(text.as_bytes(), Machine::X86_64, count).map(|arguments| arguments.0)
    }

    #[test]
    fn operands_of_x86_64_are_registers_constants_and_memory() {
        let [a, b, c] = x86("8@%rdi -4@-12(%rbp) 8@$64").unwrap();
        assert_eq!((a.kind, a.register, a.width, a.is_signed), (ARGUMENT_REGISTER, 7, 8, 0));
        assert_eq!((b.kind, b.register, b.index, b.value), (ARGUMENT_MEMORY, 5, NO_REGISTER, -12));
        assert_eq!((b.width, b.is_signed), (4, 1));
        assert_eq!((c.kind, c.value), (ARGUMENT_CONSTANT, 64));
        let [a, b, c] = x86("4@%r10d 8@16(%rax,%rbx,8) 8@(%rsp)").unwrap();
        assert_eq!((a.register, a.width), (10, 4));
        assert_eq!((b.register, b.index, b.shift, b.value), (0, 3, 3, 16));
        assert_eq!((c.register, c.value), (4, 0));
        for refused in ["8@counter(%rip)", "8@%xmm0", "3@%rax", "8%rax", "8@(%rax,%rbx,3)", "8@$", "8@", "8@16"] {
            assert_eq!(x86(refused), None, "{refused}");
        }
        assert_eq!(Arguments::parse(b"8@%rdi", Machine::X86_64, 3), None, "two are missing");
    }

    #[test]
    fn operands_of_aarch64_are_registers_constants_and_memory() {
        let Arguments([a, b, c]) = Arguments::parse(b"8@x0 -4@[sp, 12] 8@64", Machine::Aarch64, 3).unwrap();
        assert_eq!((a.kind, a.register), (ARGUMENT_REGISTER, 0));
        assert_eq!((b.kind, b.register, b.value, b.width, b.is_signed), (ARGUMENT_MEMORY, AARCH64_SP, 12, 4, 1));
        assert_eq!((c.kind, c.value), (ARGUMENT_CONSTANT, 64));
        assert_eq!(Arguments::parse(b"8@x31", Machine::Aarch64, 1), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text: Vec<u8>, readable: String) {
            for machine in [Machine::X86_64, Machine::Aarch64] {
                let _ = (Arguments::parse(&text, machine, 3), Arguments::parse(readable.as_bytes(), machine, 1));
            }
        }
    }
}
