//! What the image's code calls by name: its procedure linkage table, read backwards.

use std::collections::HashMap;

use super::Image;
use crate::elf::{Relocation, relocations};

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
            for relocation in relocations(bytes).filter(Relocation::is_link) {
                let name = symbols.get(relocation.symbol).and_then(|symbol| symbols.name(&symbol, longest));
                if let Some(name) = name.filter(|name| wanted(name)) {
                    names.insert(relocation.slot, name);
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
