//! Which addresses are those of vtables, by what is there: tables of functions in the data of a program or library.
//!
//! An object with virtual functions begins with the address of its class' vtable, and a base class within the object with that of
//! another one (Itanium C++ ABI, "Virtual Table Layout").

use std::collections::HashMap;
use std::ops::Range;

use super::findings::Scan;
use super::memory::Memory;
use crate::process::memory::{RegionKind, Survey};

/// How many words of a table are looked at, and how many of these must be addresses of functions; the others are zero. As in
/// Valgrind's memcheck.
const WORDS: usize = 10;
const FUNCTIONS: usize = 2;
/// Words before the address that an object begins with: how far into the whole object this one lies, and what describes the class.
const BEFORE: usize = 2;
const WORD: u64 = 8;
/// Most tables that are looked for in files.
const MOST_IN_FILES: usize = 1 << 16;

/// A vtable, and where its class is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// The address of the class' `std::type_info`; 0 where there is none.
    pub type_info: u64,
    /// The address of the class' mangled name; 0 where that is not known.
    pub name: u64,
}

/// What lies at the addresses that blocks begin with and that may be a vtable's: `None` where none does.
#[derive(Debug, Default)]
pub struct Tables(HashMap<u64, Option<Table>>);

impl Tables {
    /// Looks at each address that blocks begin with, and each in these blocks, that may be a vtable's.
    #[must_use]
    pub fn find(scan: &Scan, code: &[Range<u64>], memory: &dyn Memory) -> Self {
        let mut tables = HashMap::new();
        for vtable in &scan.vtables {
            tables.entry(vtable.address).or_insert_with(|| table(vtable.address, code, memory));
        }
        Self(tables)
    }

    /// Whether a vtable begins at this address.
    #[must_use]
    pub fn is_vtable(&self, address: u64) -> bool {
        self.0.get(&address).is_some_and(Option::is_some)
    }

    /// All vtables, by address.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Table)> + '_ {
        self.0.iter().filter_map(|(address, table)| Some((*address, (*table)?)))
    }

    /// The memory that says more and that was not read, since a process never writes to it: for [`Tables::learn`].
    #[must_use]
    pub fn unread(&self) -> Vec<Range<u64>> {
        let range = |start: u64, words: usize| start..start.saturating_add(words as u64 * WORD);
        let unread = |(address, table): (&u64, &Option<Table>)| match table {
            None => is_aligned(*address).then(|| range(before(*address), BEFORE + WORDS)),
            Some(Table { type_info, name: 0 }) if is_aligned(*type_info) => Some(range(*type_info, BEFORE)),
            Some(_) => None,
        };
        self.0.iter().filter_map(unread).take(MOST_IN_FILES).collect()
    }

    /// Looks once more at what was not read, in memory that has it.
    pub fn learn(&mut self, code: &[Range<u64>], memory: &dyn Memory) {
        for (address, known) in &mut self.0 {
            match known {
                None => *known = table(*address, code, memory),
                Some(table) if table.name == 0 => table.name = name(table.type_info, memory),
                Some(_) => {}
            }
        }
    }
}

/// Where vtables may be: in data of files, most of which can only be read. In ascending order.
#[must_use]
pub fn places(survey: &Survey) -> Vec<Range<u64>> {
    let is_data = |kind| matches!(kind, RegionKind::Data | RegionKind::ReadOnly);
    let data = survey.regions.iter().filter(|region| is_data(region.kind) && region.name.is_file());
    data.map(|region| region.start.0..region.end.0).collect()
}

fn table(address: u64, code: &[Range<u64>], memory: &dyn Memory) -> Option<Table> {
    if !is_aligned(address) {
        return None;
    }
    let mut words = [0; BEFORE + WORDS];
    // What cannot be read is zero, which is no function.
    memory.read(before(address), &mut words);
    let is_code = |word: u64| {
        let behind = code.partition_point(|range| range.start <= word);
        behind.checked_sub(1).is_some_and(|at| word < code[at].end)
    };
    let mut functions = 0;
    for word in words[BEFORE..].iter().filter(|word| **word != 0) {
        if functions == FUNCTIONS || !is_code(*word) {
            break;
        }
        functions += 1;
    }
    let type_info = words[BEFORE - 1];
    (functions == FUNCTIONS).then(|| Table { type_info, name: name(type_info, memory) })
}

/// The second word of a `std::type_info`.
fn name(type_info: u64, memory: &dyn Memory) -> u64 {
    let mut words = [0; 2];
    if type_info != 0 && is_aligned(type_info) {
        memory.read(type_info, &mut words);
    }
    words[1]
}

fn before(address: u64) -> u64 {
    address.saturating_sub(BEFORE as u64 * WORD)
}

fn is_aligned(address: u64) -> bool {
    address.is_multiple_of(WORD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::reachability::findings::Vtable;
    use crate::analysis::reachability::tests::Words;

    const TABLE: u64 = 0x7f00_0000_0100;
    const CODE: [Range<u64>; 2] = [0x1000..0x2000, 0x4000..0x5000];

    fn scan(addresses: &[u64]) -> Scan {
        let vtables = addresses.iter().map(|address| Vtable { block: 0, offset: 0, address: *address });
        Scan { vtables: vtables.collect(), ..Scan::default() }
    }

    #[test]
    fn a_table_of_functions_is_a_vtable() {
        let is = |words: &[u64]| table(TABLE, &CODE, &Words(vec![(TABLE, words.to_vec())])).is_some();
        assert!(is(&[0x1000, 0x4fff, 7]));
        assert!(is(&[0, 0x1000, 0, 0x1008]), "functions that the linker left out");
        assert!(!is(&[0x1000, 0x3000, 0x4000]), "between code");
        assert!(!is(&[0x1000]) && !is(&[0; 10]));
        assert!(table(TABLE + 4, &CODE, &Words(vec![(TABLE, vec![0x1000; 10])])).is_none());
    }

    #[test]
    fn a_class_is_described_before_its_vtable() {
        let described = vec![0, 0x9000, 0x1000, 0x1008];
        let memory = Words(vec![(TABLE - 16, described), (0x9000, vec![0x7000, 0x9100])]);
        let tables = Tables::find(&scan(&[TABLE]), &CODE, &memory);
        assert_eq!(tables.iter().collect::<Vec<_>>(), [(TABLE, Table { type_info: 0x9000, name: 0x9100 })]);
        assert!(tables.is_vtable(TABLE) && !tables.is_vtable(TABLE + 8));
        let without = Words(vec![(TABLE, vec![0x1000; 2])]);
        let plain = Table { type_info: 0, name: 0 };
        assert_eq!(Tables::find(&scan(&[TABLE]), &CODE, &without).iter().next(), Some((TABLE, plain)));
    }

    #[test]
    fn what_only_files_have_is_looked_up_there_in_two_steps() {
        let mut tables = Tables::find(&scan(&[TABLE, TABLE + 4]), &CODE, &Words(Vec::new()));
        assert_eq!(tables.unread().first(), Some(&(TABLE - 16..TABLE + 80)));
        assert_eq!(tables.unread().len(), 1, "vtables are aligned");
        tables.learn(&CODE, &Words(vec![(TABLE - 16, vec![0, 0x9000, 0x1000, 0x1008])]));
        assert_eq!(tables.unread().into_iter().find(|range| range.start == 0x9000), Some(0x9000..0x9010));
        tables.learn(&CODE, &Words(vec![(0x9000, vec![1, 0x9100])]));
        assert_eq!(tables.iter().next(), Some((TABLE, Table { type_info: 0x9000, name: 0x9100 })));
        assert!(tables.unread().is_empty());
    }
}
