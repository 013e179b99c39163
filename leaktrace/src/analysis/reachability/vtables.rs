//! Which addresses are those of vtables, by what is there: tables of functions in the data of a program or library.
//!
//! An object with virtual functions begins with the address of its class' vtable, and a base class within the object with that of
//! another one (Itanium C++ ABI, "Virtual Table Layout").

use std::collections::HashMap;
use std::ops::Range;

use super::memory::Memory;
use super::scanning::Scan;
use crate::process::memory::{RegionKind, Survey};

/// How many words of a table are looked at, and how many of these must be addresses of functions; the others are zero. As in
/// Valgrind's memcheck.
const WORDS: usize = 10;
const FUNCTIONS: usize = 2;

/// Where vtables may be: in data of files, most of which can only be read. In ascending order.
#[must_use]
pub fn places(survey: &Survey) -> Vec<Range<u64>> {
    let is_data = |kind| matches!(kind, RegionKind::Data | RegionKind::ReadOnly);
    let data = survey.regions.iter().filter(|region| is_data(region.kind) && region.name.is_file());
    data.map(|region| region.start.0..region.end.0).collect()
}

/// For each address that blocks begin with and that may be a vtable's, and each in these blocks, whether it is one.
#[must_use]
pub fn known(scan: &Scan, code: &[Range<u64>], memory: &dyn Memory) -> HashMap<u64, bool> {
    let mut known = HashMap::new();
    for vtable in &scan.vtables {
        known.entry(vtable.address).or_insert_with(|| is_vtable(vtable.address, code, memory));
    }
    known
}

fn is_vtable(address: u64, code: &[Range<u64>], memory: &dyn Memory) -> bool {
    if !address.is_multiple_of(8) {
        return false;
    }
    let mut words = [0; WORDS];
    // What cannot be read is zero, which is no function.
    memory.read(address, &mut words);
    let is_code = |word: u64| {
        let behind = code.partition_point(|range| range.start <= word);
        behind.checked_sub(1).is_some_and(|at| word < code[at].end)
    };
    let mut functions = 0;
    for word in words.into_iter().filter(|word| *word != 0) {
        if functions == FUNCTIONS || !is_code(word) {
            break;
        }
        functions += 1;
    }
    functions == FUNCTIONS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::reachability::tests::Words;

    #[test]
    fn a_table_of_functions_is_a_vtable() {
        let table = 0x7f00_0000_0100;
        let code = [0x1000..0x2000, 0x4000..0x5000];
        let is = |words: &[u64]| is_vtable(table, &code, &Words(vec![(table, words.to_vec())]));
        assert!(is(&[0x1000, 0x4fff, 7]));
        assert!(is(&[0, 0x1000, 0, 0x1008]), "functions that the linker left out");
        assert!(!is(&[0x1000, 0x3000, 0x4000]), "between code");
        assert!(!is(&[0x1000]) && !is(&[0; 10]));
        assert!(!is_vtable(table + 4, &code, &Words(vec![(table, vec![0x1000; 10])])));
    }
}
