//! What the image's code calls by name: its procedure linkage table, read backwards.

use std::collections::HashMap;

use object::LittleEndian as LE;
use object::elf::Rela64;
use object::pod;

use super::Image;

/// System V AMD64 ABI, table 4.9: a pointer for the linkage table, and one for code that does without it.
const JUMP_SLOT: u32 = 7;
const GLOB_DAT: u32 = 6;

/// Slots that the dynamic linker fills with the address of a function, by the slot's address.
#[derive(Debug, Default)]
pub struct Links<'a> {
    names: HashMap<u64, &'a [u8]>,
}

impl<'a> Image<'a> {
    /// The slots whose names `wanted` wants; names longer than `longest` are not asked for.
    #[must_use]
    pub fn links(&self, longest: usize, wanted: impl Fn(&[u8]) -> bool) -> Links<'a> {
        let tables = [self.dynamic.plt_relocations, self.dynamic.relocations];
        let mut names = HashMap::new();
        let Some(symbols) = self.dynamic_table() else { return Links { names } };
        for (address, size) in tables.into_iter().flatten() {
            let Some(bytes) = self.at_address(address, size) else { continue };
            let Ok(relocations) = pod::slice_from_all_bytes::<Rela64<LE>>(bytes) else { continue };
            for relocation in relocations {
                let info = relocation.r_info.get(LE);
                let (symbol, kind) = (info >> 32, info as u32);
                if kind != JUMP_SLOT && kind != GLOB_DAT {
                    continue;
                }
                if let Some(name) = symbols.name_of(symbol, longest).filter(|name| wanted(name)) {
                    names.insert(relocation.r_offset.get(LE), name);
                }
            }
        }
        Links { names }
    }
}

impl<'a> Links<'a> {
    /// The function whose address the dynamic linker writes into this slot.
    #[must_use]
    pub fn at(&self, slot: u64) -> Option<&'a [u8]> {
        self.names.get(&slot).copied()
    }

    /// All functions in there.
    pub fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        self.names.values().copied()
    }
}
