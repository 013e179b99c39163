//! Section headers: what the parts of a file are, by name.

use std::ops::Deref;

use object::LittleEndian as LE;
use object::elf::{self, SectionHeader64};
use object::pod;

use super::bytes::Bytes;
use super::strings::Strings;

/// What a section holds, as far as anybody here asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// All symbols (`SHT_SYMTAB`).
    Symbols,
    /// Those that other objects can link with (`SHT_DYNSYM`).
    DynamicSymbols,
    /// Names (`SHT_STRTAB`).
    Strings,
    /// Notes (`SHT_NOTE`).
    Notes,
    /// Nothing in this file, as all of a debug file's code (`SHT_NOBITS`).
    Absent,
    /// Something else.
    Other,
}

/// A section header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name; empty where it has none that can be read.
    pub name: String,
    /// What it holds.
    pub kind: SectionKind,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Virtual address of the first byte, in the object's own numbering; 0 where it is not loaded.
    pub address: u64,
    /// Index of the section that this one refers to: the strings of a symbol table, the symbols of a relocation table.
    pub link: usize,
    /// Bytes per entry, 0 where it has none.
    pub entry_size: u64,
    /// What its place is a multiple of.
    pub align: u64,
    /// Whether it is loaded into memory.
    pub allocated: bool,
    /// Whether it holds code.
    pub executable: bool,
    /// Whether its bytes are packed, after a header that says how.
    pub compressed: bool,
}

impl Section {
    /// Its bytes, as they lie in the file; none where it takes no room there.
    ///
    /// # Errors
    /// They are not all in the file, or cannot be read.
    pub fn data<B: Bytes>(&self, bytes: &B) -> std::io::Result<B::Run> {
        if self.kind == SectionKind::Absent { bytes.run(0, 0) } else { bytes.run(self.offset, self.size) }
    }
}

/// The sections of a table of headers. `names` is the index of that with their names, whose bytes `read` reads.
pub(super) fn parse<R: Deref<Target = [u8]>>(
    table: &[u8],
    names: usize,
    read: impl Fn(u64, u64) -> Option<R>,
) -> Vec<Section> {
    let count = table.len() / size_of::<SectionHeader64<LE>>();
    let (headers, _) = pod::slice_from_bytes::<SectionHeader64<LE>>(table, count).unwrap_or_default();
    let bytes = headers.get(names).and_then(|names| read(names.sh_offset.get(LE), names.sh_size.get(LE)));
    let mut names = Strings::new(bytes.as_deref().unwrap_or_default());
    headers.iter().map(|header| section(header, &mut names)).collect()
}

fn section(header: &SectionHeader64<LE>, names: &mut Strings<'_>) -> Section {
    let name = names.get(header.sh_name.get(LE) as usize);
    let flags = header.sh_flags.get(LE);
    Section {
        name: name.map_or_else(String::new, |name| String::from_utf8_lossy(name).into_owned()),
        kind: match header.sh_type.get(LE) {
            elf::SHT_SYMTAB => SectionKind::Symbols,
            elf::SHT_DYNSYM => SectionKind::DynamicSymbols,
            elf::SHT_STRTAB => SectionKind::Strings,
            elf::SHT_NOTE => SectionKind::Notes,
            elf::SHT_NOBITS => SectionKind::Absent,
            _ => SectionKind::Other,
        },
        offset: header.sh_offset.get(LE),
        size: header.sh_size.get(LE),
        address: header.sh_addr.get(LE),
        link: header.sh_link.get(LE) as usize,
        entry_size: header.sh_entsize.get(LE),
        align: header.sh_addralign.get(LE),
        allocated: flags.contains(elf::SHF_ALLOC),
        executable: flags.contains(elf::SHF_EXECINSTR),
        compressed: flags.contains(elf::SHF_COMPRESSED),
    }
}
