//! Names for the procedure linkage table: the stubs through which an object calls functions of other objects.
//!
//! Pure: bytes in, names out. Layouts differ (lazy, eager, with branch tracking), but every stub jumps through its slot of
//! the global offset table, and the relocation of that slot names the function. x86-64.

use std::collections::HashMap;

use super::elf::Elf;
use super::symtab::unversioned;
use crate::elf::{Symbols, relocations};

/// A stub's size where the section header does not give it (x86-64 psABI).
const STUB: u64 = 16;

/// `.plt`, `.plt.got`, `.plt.sec`, `.plt.bnd`: a file may claim any number.
const MAX_TABLES: usize = 8;

/// The stubs of one object, ascending: first address, one past the last, function.
#[derive(Debug, Default)]
pub(super) struct Plt {
    stubs: Vec<(u64, u64, String)>,
}

impl Plt {
    pub(super) fn read(elf: &Elf) -> Self {
        let slots = slots(elf);
        let mut stubs: Vec<_> = elf
            .sections()
            .iter()
            .filter(|section| section.executable && section.name.starts_with(".plt"))
            .take(MAX_TABLES)
            .filter_map(|section| Some((section, elf.data(section).ok()?)))
            .flat_map(|(section, code)| {
                let size = if (8..=64).contains(&section.entry_size) { section.entry_size } else { STUB };
                self::stubs(section.address, &code, size, &slots)
            })
            .collect();
        stubs.sort_unstable();
        Self { stubs }
    }

    /// `malloc@plt`
    pub(super) fn find(&self, address: u64) -> Option<String> {
        let after = self.stubs.partition_point(|(start, ..)| *start <= address);
        let (_, end, name) = self.stubs.get(after.checked_sub(1)?)?;
        (address < *end).then(|| format!("{name}@plt"))
    }
}

/// Which function's address the dynamic linker puts into each slot.
fn slots(elf: &Elf) -> HashMap<u64, String> {
    [".rela.plt", ".rela.dyn"]
        .into_iter()
        .filter_map(|name| {
            let section = elf.section(name)?;
            let symbols = elf.sections().get(section.link)?;
            let strings = elf.sections().get(symbols.link)?;
            let (relocations, symbols, strings) =
                (elf.data(section).ok()?, elf.data(symbols).ok()?, elf.data(strings).ok()?);
            Some(named_slots(&relocations, Symbols::new(&symbols, &strings)))
        })
        .flatten()
        .collect()
}

fn named_slots(bytes: &[u8], symbols: Symbols<'_>) -> Vec<(u64, String)> {
    let mut strings = symbols.strings();
    relocations(bytes)
        // The first symbol stands for none.
        .filter(|relocation| relocation.symbol != 0)
        .filter_map(|relocation| {
            let name = unversioned(symbols.get(relocation.symbol)?.name_in(&mut strings)?);
            (!name.is_empty()).then(|| (relocation.slot, String::from_utf8_lossy(name).into_owned()))
        })
        .collect()
}

fn stubs(address: u64, code: &[u8], size: u64, slots: &HashMap<u64, String>) -> Vec<(u64, u64, String)> {
    code.chunks_exact(size as usize)
        .zip((0..).map(|index| address.wrapping_add(index * size)))
        .filter_map(|(stub, start)| {
            let slot = start.wrapping_add(indirect_jump(stub)?);
            Some((start, start.checked_add(size)?, slots.get(&slot)?.clone()))
        })
        .collect()
}

/// The address that the stub's `jmp *displacement(%rip)` (ff 25) reads, relative to the stub; `endbr64` or `bnd` may
/// come first.
fn indirect_jump(stub: &[u8]) -> Option<u64> {
    let rest = stub.strip_prefix(&[0xf3, 0x0f, 0x1e, 0xfa]).unwrap_or(stub);
    let rest = rest.strip_prefix(&[0xf2]).unwrap_or(rest);
    let displacement = rest.strip_prefix(&[0xff, 0x25])?.first_chunk()?;
    let next = (stub.len() - rest.len() + 6) as u64;
    Some(next.wrapping_add_signed(i32::from_le_bytes(*displacement).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_is_named_after_the_slot_that_it_jumps_through() {
        let slots = HashMap::from([(0x4018, "malloc".to_owned()), (0x4020, "free".to_owned())]);
        let mut code = Vec::new();
        // The first stub of a lazy table belongs to the dynamic linker: push, jmp *0x2fe4(%rip).
        code.extend([0xff, 0x35, 0xe2, 0x2f, 0, 0, 0xff, 0x25, 0xe4, 0x2f, 0, 0, 0x0f, 0x1f, 0x40, 0]);
        // 1030: jmp *0x2fe2(%rip) # 4018; push $0; jmp 1020
        code.extend([0xff, 0x25, 0xe2, 0x2f, 0, 0, 0x68, 0, 0, 0, 0, 0xe9, 0xe0, 0xff, 0xff, 0xff]);
        // 1040: endbr64; bnd jmp *0x2fd5(%rip) # 4020; nop
        code.extend([0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0xd5, 0x2f, 0, 0, 0x0f, 0x1f, 0x44, 0, 0]);
        let plt = Plt { stubs: stubs(0x1020, &code, 16, &slots) };
        let names = [0x1020, 0x1030, 0x103f, 0x1040, 0x1050].map(|address| plt.find(address));
        assert_eq!(
            names,
            [None, Some("malloc@plt".to_owned()), Some("malloc@plt".to_owned()), Some("free@plt".to_owned()), None]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(address: u64, code: Vec<u8>, relocations: Vec<u8>, symbols: Vec<u8>, strings: Vec<u8>) {
            let slots = named_slots(&relocations, Symbols::new(&symbols, &strings)).into_iter().collect();
            let _ = stubs(address, &code, 16, &slots);
        }
    }
}
