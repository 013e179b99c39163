//! Symbols: of `.dynsym` first, then of `.symtab`; where no section headers are left, of what the dynamic section names.

use super::Image;
use crate::elf::{self, Home, SectionKind, SymbolKind, Symbols};

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
    /// What kind of code: an IFUNC's address must not be probed as the function that it chooses.
    pub kind: SymbolKind,
}

impl<'a> Image<'a> {
    /// Every symbol in the code whose name is not longer than `longest` bytes. The same function may come more than once.
    pub fn symbols(&self, longest: usize) -> impl Iterator<Item = Symbol<'a>> {
        self.tables().into_iter().flat_map(move |table| {
            table.iter().filter_map(move |symbol| {
                let extent = self.extent(&symbol)?;
                Some(Symbol { name: table.name(&symbol, longest)?, extent })
            })
        })
    }

    /// Where every symbol in the code lies, names unread.
    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        self.tables().into_iter().flat_map(|table| table.iter().filter_map(|symbol| self.extent(&symbol)))
    }

    /// The address of a symbol that others can link with, code or data.
    #[must_use]
    pub fn exported(&self, name: &[u8]) -> Option<u64> {
        let table = self.dynamic_table()?;
        let is_it = |symbol: &elf::Symbol| {
            !matches!(symbol.home, Home::Elsewhere | Home::None) && table.name(symbol, name.len()) == Some(name)
        };
        table.iter().find(is_it).map(|symbol| symbol.address)
    }

    /// Whether there are symbols beyond the dynamic ones: whether it is not stripped.
    #[must_use]
    pub fn has_static_symbols(&self) -> bool {
        self.sections.iter().any(|section| section.kind == SectionKind::Symbols)
    }

    /// Whether other objects can link with a function of this one.
    pub(super) fn exports_functions(&self) -> bool {
        let is_function = |symbol| self.extent(&symbol).is_some_and(|extent| extent.kind == SymbolKind::Function);
        self.dynamic_table().is_some_and(|table| table.iter().any(is_function))
    }

    fn extent(&self, symbol: &elf::Symbol) -> Option<Extent> {
        let is_code = !matches!(symbol.kind, SymbolKind::Data | SymbolKind::Other);
        if matches!(symbol.home, Home::Elsewhere | Home::None) || !is_code {
            return None;
        }
        self.code_at(symbol.address)?;
        Some(Extent { address: symbol.address, size: symbol.size, kind: symbol.kind })
    }

    fn tables(&self) -> Vec<Symbols<'a>> {
        let full = self.section_table(SectionKind::Symbols);
        self.dynamic_table().into_iter().chain(full).collect()
    }

    pub(super) fn dynamic_table(&self) -> Option<Symbols<'a>> {
        self.section_table(SectionKind::DynamicSymbols).or_else(|| self.table_by_dynamic_section())
    }

    fn section_table(&self, kind: SectionKind) -> Option<Symbols<'a>> {
        let section = self.sections.iter().find(|section| section.kind == kind)?;
        let strings = self.sections.get(section.link)?;
        Some(Symbols::new(section.data(&self.bytes).ok()?, strings.data(&self.bytes).ok()?))
    }

    /// The dynamic symbols as the dynamic linker finds them. How many there are only the hash tables know.
    fn table_by_dynamic_section(&self) -> Option<Symbols<'a>> {
        let dynamic = &self.dynamic;
        let rest = |address: Option<u64>| self.rest_at_address(address?);
        let count = elf::count_by_hash_tables(rest(dynamic.hash), rest(dynamic.gnu_hash))?;
        let strings = self.at_address(dynamic.strings?, dynamic.strings_size)?;
        Symbols::new(rest(dynamic.symbols)?, strings).first(count)
    }
}
