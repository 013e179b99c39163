//! Symbol tables and the names they refer to, as they lie in the file.

use object::LittleEndian as LE;
use object::elf::{self, Sym64};
use object::pod;
use object::read::elf::{FileHeader, GnuHashTable, HashTable};

use super::strings::{Strings, terminated};

/// What a symbol stands for, as far as anybody here asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SymbolKind {
    /// A function (`STT_FUNC`).
    Function,
    /// An IFUNC: code that chooses the function (`STT_GNU_IFUNC`).
    Resolver,
    /// A label, as assembly leaves them (`STT_NOTYPE`).
    Label,
    /// A variable or another piece of data (`STT_OBJECT`).
    Data,
    /// A section, a file, a thread's variable.
    Other,
}

/// Where a symbol is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// In another object (`SHN_UNDEF`).
    Elsewhere,
    /// In the section of this index.
    Section(u16),
    /// In a section whose index does not fit (`SHN_XINDEX`).
    SomeSection,
    /// In none, so that its value is no address of the object (`SHN_ABS`, `SHN_COMMON` and other reserved numbers).
    None,
}

/// An entry of a symbol table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    name: u32,
    /// What it stands for.
    pub kind: SymbolKind,
    /// Whether other objects cannot see it (`STB_LOCAL`).
    pub local: bool,
    /// Where it is defined.
    pub home: Home,
    /// Its value: for what is defined here, a virtual address.
    pub address: u64,
    /// Bytes; 0 where the symbol does not say.
    pub size: u64,
}

/// A table of symbols.
#[derive(Debug, Clone, Copy)]
pub struct Symbols<'a> {
    entries: &'a [Sym64<LE>],
    strings: &'a [u8],
}

impl<'a> Symbols<'a> {
    /// Bytes of an entry.
    const SIZE: usize = size_of::<Sym64<LE>>();

    /// The symbols in a section's bytes; an incomplete entry at the end is left out.
    #[must_use]
    pub fn new(entries: &'a [u8], strings: &'a [u8]) -> Self {
        let (entries, _) = pod::slice_from_bytes(entries, entries.len() / Self::SIZE).unwrap_or_default();
        Self { entries, strings }
    }

    /// The first `count` symbols, if there are that many.
    #[must_use]
    pub fn first(self, count: u64) -> Option<Self> {
        Some(Self { entries: self.entries.get(..usize::try_from(count).ok()?)?, ..self })
    }

    /// All of them, in the table's order.
    pub fn iter(&self) -> impl Iterator<Item = Symbol> + use<'a> {
        self.entries.iter().map(symbol)
    }

    /// The symbol with this index, as relocations refer to it.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Symbol> {
        self.entries.get(index).map(symbol)
    }

    /// A symbol's name, if it is not longer than `longest` bytes: without a version, mangled.
    #[must_use]
    pub fn name(&self, symbol: &Symbol, longest: usize) -> Option<&'a [u8]> {
        terminated(self.strings.get(symbol.name as usize..)?, longest)
    }

    /// The string table, for [`Symbol::name_in`], with one limit for all names together.
    #[must_use]
    pub fn strings(&self) -> Strings<'a> {
        Strings::new(self.strings)
    }
}

impl Symbol {
    /// Its name in its table's strings.
    pub fn name_in<'a>(&self, strings: &mut Strings<'a>) -> Option<&'a [u8]> {
        strings.get(self.name as usize)
    }
}

fn symbol(entry: &Sym64<LE>) -> Symbol {
    Symbol {
        name: entry.st_name.get(LE),
        kind: match entry.st_type() {
            elf::STT_FUNC => SymbolKind::Function,
            elf::STT_GNU_IFUNC => SymbolKind::Resolver,
            elf::STT_NOTYPE => SymbolKind::Label,
            elf::STT_OBJECT => SymbolKind::Data,
            _ => SymbolKind::Other,
        },
        local: entry.st_bind() == elf::STB_LOCAL,
        home: match entry.st_shndx.get(LE) {
            elf::SHN_UNDEF => Home::Elsewhere,
            elf::SHN_XINDEX => Home::SomeSection,
            index if index.0 >= elf::SHN_LORESERVE => Home::None,
            index => Home::Section(index.0),
        },
        address: entry.st_value.get(LE),
        size: entry.st_size.get(LE),
    }
}

/// The number of dynamic symbols: the dynamic section does not give it, only its hash tables do. Each table is given from
/// its start on.
#[must_use]
pub fn count_by_hash_tables(hash: Option<&[u8]>, gnu_hash: Option<&[u8]>) -> Option<u64> {
    type Header = elf::FileHeader64<LE>;
    fn by_hash<H: FileHeader<Endian = LE>>(bytes: &[u8]) -> Option<u32> {
        HashTable::<H>::parse(LE, bytes).ok().map(|table| table.symbol_table_length())
    }
    let by_gnu_hash = |bytes| GnuHashTable::<Header>::parse(LE, bytes).ok()?.symbol_table_length(LE);
    hash.and_then(by_hash::<Header>).or_else(|| gnu_hash.and_then(by_gnu_hash)).map(u64::from)
}
