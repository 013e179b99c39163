//! Symbols: of `.dynsym` first, then of `.symtab`; where no section headers are left, of what the dynamic section names.

use object::LittleEndian as LE;
use object::elf::{self, Sym64};
use object::pod;
use object::read::elf::{GnuHashTable, HashTable, SectionHeader, Sym};

use super::Image;

/// A symbol that is defined in the image and lies in its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// As in the string table: without a version, mangled.
    pub name: &'a [u8],
    /// Where it lies.
    pub extent: Extent,
}

/// Where a symbol lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first instruction, in the object's own numbering.
    pub address: u64,
    /// Bytes; 0 where the symbol does not say.
    pub size: u64,
    /// What kind of code.
    pub sort: Sort,
}

/// What a symbol in the code is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sort {
    /// A function.
    Function,
    /// An IFUNC: not the function but what chooses it. Its address must not be probed as the function.
    Resolver,
    /// A label, as assembly leaves them.
    Label,
}

/// A table of symbols and the names they refer to.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    symbols: &'a [Sym64<LE>],
    strings: &'a [u8],
}

impl<'a> Table<'a> {
    fn name(&self, symbol: &Sym64<LE>, longest: usize) -> Option<&'a [u8]> {
        terminated(self.strings.get(symbol.st_name(LE) as usize..)?, longest)
    }

    /// The name of the symbol with this index, as relocations refer to it; undefined ones have names too.
    pub(super) fn name_of(&self, index: u64, longest: usize) -> Option<&'a [u8]> {
        self.name(self.symbols.get(usize::try_from(index).ok()?)?, longest)
    }
}

impl<'a> Image<'a> {
    /// Every symbol in the code whose name is not longer than `longest` bytes. The same function may come more than once.
    pub fn symbols(&self, longest: usize) -> impl Iterator<Item = Symbol<'a>> {
        self.tables().into_iter().flat_map(move |table| {
            table.symbols.iter().filter_map(move |symbol| {
                let extent = self.extent(symbol)?;
                Some(Symbol { name: table.name(symbol, longest)?, extent })
            })
        })
    }

    /// Where every symbol in the code lies, names unread.
    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        self.tables().into_iter().flat_map(|table| table.symbols.iter().filter_map(|symbol| self.extent(symbol)))
    }

    /// The address of a symbol that others can link with, code or data.
    #[must_use]
    pub fn exported(&self, name: &[u8]) -> Option<u64> {
        let table = self.dynamic_table()?;
        let is_it = |symbol: &&Sym64<LE>| {
            symbol.st_shndx(LE) != elf::SHN_UNDEF && table.name(symbol, name.len()).is_some_and(|known| known == name)
        };
        table.symbols.iter().find(is_it).map(|symbol| symbol.st_value(LE))
    }

    /// Whether there are symbols beyond the dynamic ones: whether it is not stripped.
    #[must_use]
    pub fn has_static_symbols(&self) -> bool {
        self.sections.iter().any(|section| section.sh_type(LE) == elf::SHT_SYMTAB)
    }

    /// Whether other objects can link with a function of this one.
    pub(super) fn exports_functions(&self) -> bool {
        let is_function = |symbol: &Sym64<LE>| self.extent(symbol).is_some_and(|extent| extent.sort == Sort::Function);
        self.dynamic_table().is_some_and(|table| table.symbols.iter().any(is_function))
    }

    fn extent(&self, symbol: &Sym64<LE>) -> Option<Extent> {
        let section = symbol.st_shndx(LE);
        if section == elf::SHN_UNDEF || section == elf::SHN_ABS || section == elf::SHN_COMMON {
            return None;
        }
        let sort = match symbol.st_type() {
            elf::STT_FUNC => Sort::Function,
            elf::STT_GNU_IFUNC => Sort::Resolver,
            elf::STT_NOTYPE => Sort::Label,
            _ => return None,
        };
        let address = symbol.st_value(LE);
        self.code_at(address)?;
        Some(Extent { address, size: symbol.st_size(LE), sort })
    }

    fn tables(&self) -> Vec<Table<'a>> {
        let full = self.section_table(elf::SHT_SYMTAB);
        self.dynamic_table().into_iter().chain(full).collect()
    }

    pub(super) fn dynamic_table(&self) -> Option<Table<'a>> {
        self.section_table(elf::SHT_DYNSYM).or_else(|| self.table_by_dynamic_section())
    }

    fn section_table(&self, kind: elf::SectionType) -> Option<Table<'a>> {
        let section = self.sections.iter().find(|section| section.sh_type(LE) == kind)?;
        let symbols = section.data_as_array(LE, self.bytes).ok()?;
        let strings = self.sections.get(section.sh_link(LE) as usize)?.data(LE, self.bytes).ok()?;
        Some(Table { symbols, strings })
    }

    /// The dynamic symbols as the dynamic linker finds them. How many there are only the hash tables know.
    fn table_by_dynamic_section(&self) -> Option<Table<'a>> {
        let dynamic = &self.dynamic;
        let by_hash = || {
            let table = HashTable::<elf::FileHeader64<LE>>::parse(LE, self.rest_at_address(dynamic.hash?)?).ok()?;
            Some(table.symbol_table_length())
        };
        let by_gnu_hash = || {
            let table =
                GnuHashTable::<elf::FileHeader64<LE>>::parse(LE, self.rest_at_address(dynamic.gnu_hash?)?).ok()?;
            table.symbol_table_length(LE)
        };
        let count = by_hash().or_else(by_gnu_hash)? as usize;
        let (symbols, _) = pod::slice_from_bytes(self.rest_at_address(dynamic.symbols?)?, count).ok()?;
        let strings = self.at_address(dynamic.strings?, dynamic.strings_size)?;
        Some(Table { symbols, strings })
    }
}

/// The string at the beginning, if it ends within `longest` bytes.
pub(super) fn terminated(bytes: &[u8], longest: usize) -> Option<&[u8]> {
    let window = &bytes[..bytes.len().min(longest.saturating_add(1))];
    let end = window.iter().position(|byte| *byte == 0)?;
    Some(&window[..end])
}
