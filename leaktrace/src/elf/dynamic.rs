//! The dynamic section: what an object tells the dynamic linker.

use object::LittleEndian as LE;
use object::elf::{self, Dyn64};
use object::pod;

/// Bytes of an entry.
pub const DYNAMIC_ENTRY_SIZE: usize = size_of::<Dyn64<LE>>();

/// What it says, as far as anybody here asks; addresses are virtual, in the object's own numbering.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Dynamic {
    /// Where in the strings the name is by which other objects ask for this one.
    pub soname: Option<u64>,
    /// Whether it names other objects that it needs.
    pub needs_others: bool,
    /// Address of the strings.
    pub strings: Option<u64>,
    /// Bytes of strings.
    pub strings_size: u64,
    /// Address of the symbols.
    pub symbols: Option<u64>,
    /// Address of the System V hash table.
    pub hash: Option<u64>,
    /// Address of the GNU hash table.
    pub gnu_hash: Option<u64>,
    /// Address and bytes of the relocations of the procedure linkage table.
    pub plt_relocations: Option<(u64, u64)>,
    /// Address and bytes of all others.
    pub relocations: Option<(u64, u64)>,
}

impl Dynamic {
    /// Reads the entries in these bytes, up to the one that ends them.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let (entries, _) =
            pod::slice_from_bytes::<Dyn64<LE>>(bytes, bytes.len() / DYNAMIC_ENTRY_SIZE).unwrap_or_default();
        let mut dynamic = Self::default();
        let (mut plt, mut plt_size, mut rela, mut rela_size) = (None, 0, None, 0);
        for entry in entries {
            let value = entry.d_val.get(LE);
            match entry.d_tag.get(LE) {
                elf::DT_NULL => break,
                elf::DT_SONAME => dynamic.soname = Some(value),
                elf::DT_NEEDED => dynamic.needs_others = true,
                elf::DT_STRTAB => dynamic.strings = Some(value),
                elf::DT_STRSZ => dynamic.strings_size = value,
                elf::DT_SYMTAB => dynamic.symbols = Some(value),
                elf::DT_HASH => dynamic.hash = Some(value),
                elf::DT_GNU_HASH => dynamic.gnu_hash = Some(value),
                elf::DT_JMPREL => plt = Some(value),
                elf::DT_PLTRELSZ => plt_size = value,
                elf::DT_RELA => rela = Some(value),
                elf::DT_RELASZ => rela_size = value,
                _ => {}
            }
        }
        dynamic.plt_relocations = plt.map(|address| (address, plt_size));
        dynamic.relocations = rela.map(|address| (address, rela_size));
        dynamic
    }
}
