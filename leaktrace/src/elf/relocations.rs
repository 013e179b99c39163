//! Relocations: which slots the dynamic linker fills, and with the addresses of which symbols.

use object::LittleEndian as LE;
use object::elf::Rela64;
use object::pod;

/// System V AMD64 ABI, table 4.9: a pointer for the linkage table, and one for code that does without it.
const JUMP_SLOT: u32 = 7;
const GLOB_DAT: u32 = 6;

/// A relocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relocation {
    /// Address of the slot, in the object's own numbering.
    pub slot: u64,
    /// Index of the symbol; 0 for none.
    pub symbol: usize,
    kind: u32,
}

impl Relocation {
    /// Whether the slot gets a symbol's address, no more and no less. x86-64.
    #[must_use]
    pub const fn is_link(&self) -> bool {
        self.kind == JUMP_SLOT || self.kind == GLOB_DAT
    }
}

/// The relocations in these bytes; an incomplete one at the end is left out.
pub fn relocations(bytes: &[u8]) -> impl Iterator<Item = Relocation> + '_ {
    let (entries, _) =
        pod::slice_from_bytes::<Rela64<LE>>(bytes, bytes.len() / size_of::<Rela64<LE>>()).unwrap_or_default();
    entries.iter().map(|entry| {
        let info = entry.r_info.get(LE);
        Relocation { slot: entry.r_offset.get(LE), symbol: (info >> 32) as usize, kind: info as u32 }
    })
}
