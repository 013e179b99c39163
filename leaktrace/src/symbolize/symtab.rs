//! Symbol tables: which function or variable covers an address.
//!
//! In: `.symtab` and `.dynsym` with their strings. Out: the innermost symbol whose bytes hold the address. A symbol ends
//! where its size says; one without a size covers only its first address. An address is never named after a neighbouring
//! symbol.

use std::ops::Range;

use super::elf::Elf;
use crate::elf::{Home, Section, Symbol as Entry, SymbolKind, Symbols};

/// The functions of an object, or its variables.
#[derive(Debug, Default)]
pub(super) struct SymbolTable {
    /// By start, then longest first.
    symbols: Vec<Symbol>,
    /// Their names, one after another.
    names: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: u64,
    end: u64,
    /// The highest end of this symbol and all before it: at an address beyond, no earlier symbol can match.
    reach: u64,
    name: (u32, u32),
    rank: (bool, bool),
}

impl SymbolTable {
    /// The functions in the tables of these sections, such as `.symtab`; tables that cannot be read have none.
    pub(super) fn add(&mut self, elf: &Elf, table: &str) {
        let is_code = |entry: &Entry| !matches!(entry.kind, SymbolKind::Data | SymbolKind::Other);
        // Only loaded code: the value of a symbol without a section is not an address in the object.
        self.add_those(elf, table, |entry, home| is_code(entry) && home.is_none_or(|section| section.executable));
    }

    /// The variables in the tables of these sections. Threads' own ones have no address.
    pub(super) fn add_variables(&mut self, elf: &Elf, table: &str) {
        let is_data = |section: &Section| section.allocated && !section.executable;
        self.add_those(elf, table, |entry, home| entry.kind == SymbolKind::Data && home.is_none_or(is_data));
    }

    /// The symbols that are wanted, which is asked with their sections, where these are known.
    fn add_those(&mut self, elf: &Elf, table: &str, is_wanted: impl Fn(&Entry, Option<&Section>) -> bool) {
        let sections = elf.sections();
        let Some(section) = elf.section(table) else { return };
        let (Ok(symbols), Some(strings)) = (elf.data(section), sections.get(section.link)) else { return };
        let Ok(strings) = elf.data(strings) else { return };
        self.extend(Symbols::new(&symbols, &strings), |entry| match entry.home {
            Home::Elsewhere | Home::None => false,
            Home::SomeSection => is_wanted(entry, None),
            Home::Section(index) => {
                sections.get(usize::from(index)).is_some_and(|section| is_wanted(entry, Some(section)))
            }
        });
    }

    fn extend(&mut self, symbols: Symbols<'_>, is_wanted: impl Fn(&Entry) -> bool) {
        let mut strings = symbols.strings();
        for symbol in symbols.iter() {
            if !is_wanted(&symbol) {
                continue;
            }
            let Some(name) = symbol.name_in(&mut strings) else { continue };
            // The assembler's own labels.
            if name.is_empty() || name.starts_with(b".L") || name.starts_with(b"$") {
                continue;
            }
            let rank = (symbol.kind == SymbolKind::Label, symbol.local);
            self.push(symbol.address, symbol.size, unversioned(name), rank);
        }
        self.sort();
    }

    fn push(&mut self, start: u64, size: u64, name: &[u8], rank: (bool, bool)) {
        let (Ok(at), Ok(length)) = (u32::try_from(self.names.len()), u32::try_from(name.len())) else { return };
        let Some(end) = start.checked_add(size.max(1)) else { return };
        self.names.extend_from_slice(name);
        self.symbols.push(Symbol { start, end, reach: 0, name: (at, length), rank });
    }

    fn sort(&mut self) {
        let names = std::mem::take(&mut self.names);
        let name = |symbol: &Symbol| &names[symbol.name.0 as usize..][..symbol.name.1 as usize];
        // Of several names for the same bytes, the one that programs call: a function, visible, with fewest leading
        // underscores.
        let key = |symbol: &Symbol| {
            let name = name(symbol);
            let underscores = name.iter().take_while(|&&byte| byte == b'_').count();
            (symbol.rank, underscores, name.len())
        };
        // Tables may have a million symbols: names are compared only if nothing else tells two symbols apart.
        self.symbols.sort_unstable_by(|a, b| {
            let by_place = a.start.cmp(&b.start).then_with(|| b.end.cmp(&a.end));
            by_place.then_with(|| key(a).cmp(&key(b)).then_with(|| name(a).cmp(name(b))))
        });
        self.symbols.dedup_by_key(|symbol| (symbol.start, symbol.end));
        let mut reach = 0;
        for symbol in &mut self.symbols {
            reach = reach.max(symbol.end);
            symbol.reach = reach;
        }
        self.names = names;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// The innermost function whose bytes hold `address`, by its linkage name.
    pub(super) fn find(&self, address: u64) -> Option<&[u8]> {
        self.find_with_bytes(address).map(|(name, _)| name)
    }

    /// The same, with the addresses of its bytes.
    pub(super) fn find_with_bytes(&self, address: u64) -> Option<(&[u8], Range<u64>)> {
        let after = self.symbols.partition_point(|symbol| symbol.start <= address);
        let symbol = self.symbols[..after]
            .iter()
            .rev()
            .take_while(|symbol| address < symbol.reach)
            .find(|symbol| address < symbol.end)?;
        let name = &self.names[symbol.name.0 as usize..][..symbol.name.1 as usize];
        Some((name, symbol.start..symbol.end))
    }
}

/// `.symtab` appends the version of a versioned symbol: `realpath@@GLIBC_2.3`.
pub(super) fn unversioned(name: &[u8]) -> &[u8] {
    match name.iter().position(|&byte| byte == b'@') {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(name, type, binding, section, start, size)` in the bytes that a linker writes.
    fn table(entries: &[(&str, u8, u8, u16, u64, u64)]) -> SymbolTable {
        let mut strings = vec![0];
        let mut symbols = vec![0; 24];
        for (name, kind, binding, section, start, size) in entries {
            symbols.extend(u32::try_from(strings.len()).expect("short").to_le_bytes());
            symbols.extend([binding << 4 | kind, 0]);
            symbols.extend(section.to_le_bytes());
            symbols.extend(start.to_le_bytes());
            symbols.extend(size.to_le_bytes());
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        let mut table = SymbolTable::default();
        let is_code = |entry: &Entry| !matches!(entry.kind, SymbolKind::Data | SymbolKind::Other);
        table.extend(Symbols::new(&symbols, &strings), |entry| is_code(entry) && entry.home == Home::Section(1));
        table
    }

    /// As the System V ABI numbers types and bindings.
    const NOTYPE: u8 = 0;
    const OBJECT: u8 = 1;
    const FUNC: u8 = 2;
    const LOCAL: u8 = 0;
    const GLOBAL: u8 = 1;
    const WEAK: u8 = 2;

    fn names(table: &SymbolTable, addresses: &[u64]) -> Vec<String> {
        let name = |&address| {
            table.find(address).map_or_else(|| "-".to_owned(), |name| String::from_utf8_lossy(name).into_owned())
        };
        addresses.iter().map(name).collect()
    }

    #[test]
    fn a_symbol_ends_where_its_size_says() {
        let table = table(&[("a", FUNC, GLOBAL, 1, 0x100, 0x10), ("b", FUNC, GLOBAL, 1, 0x120, 0x10)]);
        assert_eq!(
            names(&table, &[0xff, 0x100, 0x10f, 0x110, 0x11f, 0x120, 0x12f, 0x130]),
            ["-", "a", "a", "-", "-", "b", "b", "-"]
        );
    }

    #[test]
    fn a_symbol_without_a_size_names_its_first_address_alone_and_hides_nothing() {
        let table = table(&[
            ("outer", FUNC, GLOBAL, 1, 0x100, 0x100),
            ("label", NOTYPE, LOCAL, 1, 0x140, 0),
            ("_init", FUNC, LOCAL, 1, 0x300, 0),
        ]);
        assert_eq!(
            names(&table, &[0x13f, 0x140, 0x141, 0x1ff, 0x300, 0x301]),
            ["outer", "label", "outer", "outer", "_init", "-"]
        );
    }

    #[test]
    fn a_function_inside_another_is_the_innermost() {
        let table = table(&[
            ("outer", FUNC, GLOBAL, 1, 0x100, 0x100),
            ("first", FUNC, LOCAL, 1, 0x100, 0x8),
            ("inner", FUNC, LOCAL, 1, 0x140, 0x10),
        ]);
        assert_eq!(
            names(&table, &[0x107, 0x108, 0x13f, 0x140, 0x150, 0x1ff]),
            ["first", "outer", "outer", "inner", "outer", "outer"]
        );
    }

    #[test]
    fn of_several_names_the_one_that_programs_call_is_shown() {
        let table = table(&[
            ("__libc_malloc", FUNC, GLOBAL, 1, 0x100, 0x10),
            ("malloc@@GLIBC_2.2.5", FUNC, WEAK, 1, 0x100, 0x10),
            ("local", FUNC, LOCAL, 1, 0x100, 0x10),
        ]);
        assert_eq!(names(&table, &[0x100]), ["malloc"]);
    }

    #[test]
    fn data_and_symbols_of_other_objects_are_no_functions() {
        let table = table(&[
            ("data", OBJECT, GLOBAL, 1, 0x100, 0x10),
            ("elsewhere", FUNC, GLOBAL, 0, 0x200, 0x10),
            ("absolute", FUNC, GLOBAL, 0xfff1, 0x300, 0x10),
            ("rodata", FUNC, GLOBAL, 2, 0x400, 0x10),
        ]);
        assert!(table.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_looking_at_every_symbol(spans in proptest::collection::vec((0u64..64, 0u64..40), 0..24)) {
            let named: Vec<_> = spans.iter().map(|(start, size)| (format!("f{start}_{size}"), *start, *size)).collect();
            let entries: Vec<_> =
                named.iter().map(|(name, start, size)| (name.as_str(), FUNC, GLOBAL, 1, *start, *size)).collect();
            let table = table(&entries);
            for address in 0..128 {
                let expected = spans
                    .iter()
                    .filter(|(start, size)| (*start..start + (*size).max(1)).contains(&address))
                    .max_by_key(|(start, size)| (*start, u64::MAX - (*size).max(1)))
                    .map(|(start, size)| (*start, (*size).max(1)));
                let found = table.find(address).map(|name| {
                    let text = String::from_utf8_lossy(name).into_owned();
                    let (start, size) = text[1..].split_once('_').expect("as made");
                    (start.parse::<u64>().expect("number"), size.parse::<u64>().expect("number").max(1))
                });
                proptest::prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(symbols: Vec<u8>, strings: Vec<u8>, address: u64) {
            let mut table = SymbolTable::default();
            table.extend(Symbols::new(&symbols, &strings), |_| true);
            let _ = table.find(address);
        }
    }
}
