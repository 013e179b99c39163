//! Damages to an input: some that fit any bytes, and some that know its shape and so get past the first checks.

mod elf;
mod json;
mod lines;

use crate::random::Random;
use crate::slot::LONGEST;

/// What an input is made of.
#[derive(Clone, Copy)]
pub enum Shape {
    /// An ELF file.
    Elf,
    /// Instructions of x86-64 behind some bytes of parameters.
    Code,
    /// Lines with numbers, among which these words make sense.
    Lines(&'static [&'static str]),
    /// JSON, in which these words make sense.
    Json(&'static [&'static str]),
}

/// Values at which readers go wrong.
const EXTREMES: [u64; 18] = [
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0xfff,
    0x1000,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_fff0,
    0xffff_ffff,
    1 << 63,
    0x7fff_ffff_ffff_f000,
    u64::MAX - 7,
    u64::MAX,
];

/// Bytes that begin or make up many instructions.
const OPCODES: &[u8] = &[
    0x48, 0x49, 0x4c, 0x41, 0x66, 0xf3, 0xf2, 0x90, 0x0f, 0x05, 0x1e, 0xfa, 0x85, 0xff, 0x89, 0x8b, 0x8d, 0x74, 0x75,
    0xeb, 0xe9, 0xe8, 0x83, 0xec, 0x08, 0x50, 0x55, 0x5d, 0xc3, 0xc9, 0xcc, 0x00, 0xc7, 0xf8, 0xfe, 0x2e, 0x3e, 0xf0,
    0xc5, 0x62, 0x24, 0x25, 0x64,
];

/// Damages inputs.
pub struct Mutator<'a> {
    pub random: &'a mut Random,
    /// Other inputs, to take parts of.
    pub known: &'a [Vec<u8>],
    pub shape: Shape,
}

impl<'a> Mutator<'a> {
    /// Does one thing to the input.
    pub fn damage(&mut self, input: &mut Vec<u8>) {
        if self.random.once_in(3) {
            self.any_bytes(input);
        } else {
            match self.shape {
                Shape::Elf => elf::damage(self, input),
                Shape::Code => self.code(input),
                Shape::Lines(words) => lines::damage(self, input, words),
                Shape::Json(words) => json::damage(self, input, words),
            }
        }
        input.truncate(LONGEST);
    }

    /// What fits any bytes.
    fn any_bytes(&mut self, input: &mut Vec<u8>) {
        let length = input.len();
        if length == 0 {
            input.extend_from_slice(self.other());
            return;
        }
        let at = self.random.below(length);
        match self.random.below(11) {
            0 => input[at] ^= 1 << self.random.below(8),
            1 => input[at] = self.random.next() as u8,
            2 => input[at] = input[at].wrapping_add(self.small() as u8),
            3..5 => self.overwrite_number(input, at),
            5 => self.overwrite_from(input, at),
            6 => self.insert_from(input, at),
            7 => {
                let end = self.end(length, at);
                input.drain(at..end);
            }
            8 => input.truncate(at),
            9 => {
                // A part of itself again, up to eight times.
                let part = input[at..self.end(length, at)].to_vec();
                let part = part.repeat(1 + self.random.below(8));
                let to = self.random.below(length);
                input.splice(to..to, part);
            }
            _ => {
                // Its beginning and the end of another.
                let other = self.other();
                let from = self.random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }

    /// A number of 1, 2, 4 or 8 bytes becomes another one.
    fn overwrite_number(&mut self, input: &mut [u8], at: usize) {
        let size = 1 << self.random.below(4);
        let Some(bytes) = input.get_mut(at..at + size) else { return };
        let mut old = [0; 8];
        old[..size].copy_from_slice(bytes);
        let new = self.number(u64::from_le_bytes(old));
        bytes.copy_from_slice(&new.to_le_bytes()[..size]);
    }

    fn overwrite_from(&mut self, input: &mut [u8], at: usize) {
        let part = self.part_of_another();
        let end = input.len().min(at + part.len());
        input[at..end].copy_from_slice(&part[..end - at]);
    }

    fn insert_from(&mut self, input: &mut Vec<u8>, at: usize) {
        let part = self.part_of_another().to_vec();
        input.splice(at..at, part);
    }

    /// Instructions.
    fn code(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        match self.random.below(4) {
            0 => input.insert(at, *self.random.pick(OPCODES)),
            1 if at < input.len() => input[at] = *self.random.pick(OPCODES),
            2 if at < input.len() => drop(input.remove(at)),
            _ => {
                let several = (0..=self.random.below(8)).map(|_| *self.random.pick(OPCODES)).collect::<Vec<_>>();
                input.splice(at..at, several);
            }
        }
    }

    /// Another number in place of `old`.
    fn number(&mut self, old: u64) -> u64 {
        match self.random.below(6) {
            0 => old.wrapping_add(self.small()),
            1 => old.wrapping_mul(1 << self.random.below(16)),
            2 => old >> self.random.below(16),
            3 => self.random.next() >> self.random.below(64),
            _ => {
                let extreme = *self.random.pick(&EXTREMES);
                if self.random.once_in(4) { extreme.wrapping_add(self.small()) } else { extreme }
            }
        }
    }

    /// A number near 0, of either sign.
    fn small(&mut self) -> u64 {
        (self.random.below(33) as u64).wrapping_sub(16)
    }

    /// Where a part that begins at `at` ends: mostly soon.
    fn end(&mut self, length: usize, at: usize) -> usize {
        let most = if self.random.once_in(4) { length } else { 32 };
        length.min(at + 1 + self.random.below(most))
    }

    fn other(&mut self) -> &'a [u8] {
        let known: &'a [Vec<u8>] = self.known;
        if known.is_empty() { b"\0" } else { self.random.pick(known).as_slice() }
    }

    fn part_of_another(&mut self) -> &'a [u8] {
        let other = self.other();
        let at = self.random.below(other.len());
        let end = self.end(other.len(), at);
        &other[at..end]
    }
}
