//! One address space that stands for those of many ended processes, so that equal stacks in them have equal addresses.
//!
//! In: addresses of code in the processes' address spaces. Out: addresses in the common one, in which each file lies whole at a
//! place of its own and is named like any other. It grows with the number of files, not of processes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::object::ObjectId;
use super::space::{AddressSpace, Location};
use crate::model::Address;

/// The size of a file's place: no text segment reaches that far into its file.
const WINDOW: u64 = 1 << 33;
/// Files beyond these are unknown code: as many windows as a user's half of the address space has.
const MAX_FILES: u64 = (1 << 47) / WINDOW - 1;
/// What every address in unknown code becomes.
const UNKNOWN: Address = Address(1);

/// Where each file lies in the one address space.
#[derive(Debug, Default)]
pub struct Pooled {
    bases: HashMap<File, u64>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
enum File {
    Object(ObjectId),
    /// Memory without a file, and files that could not be opened.
    Named(Arc<Path>),
}

impl Pooled {
    /// The address in `into` of the code that returns to `address` in `from`. Code without a file, whose places say nothing
    /// across processes, becomes one place.
    pub fn adopt(&mut self, into: &mut AddressSpace, from: &AddressSpace, address: Address) -> Address {
        // The call, not what follows it: that may be another file's.
        let Some(location) = from.locate(Address(address.0.wrapping_sub(1))) else { return UNKNOWN };
        let offset = if location.object.is_some() { location.offset.saturating_add(1) } else { 1 };
        match self.base(into, &location) {
            Some(base) if offset <= WINDOW => Address(base + offset),
            _ => UNKNOWN,
        }
    }

    fn base(&mut self, into: &mut AddressSpace, location: &Location<'_>) -> Option<u64> {
        let file = match location.object {
            Some(object) => File::Object(object.id()),
            None => File::Named(Arc::clone(location.module)),
        };
        if let Some(base) = self.bases.get(&file) {
            return Some(*base);
        }
        let number = self.bases.len() as u64 + 1;
        if number > MAX_FILES {
            return None;
        }
        let base = number * WINDOW;
        into.place(base, base + WINDOW, location);
        self.bases.insert(file, base);
        Some(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pid;
    use crate::process::maps::ObjectStore;

    extern "C" fn here() {}

    #[test]
    fn code_of_a_file_is_the_same_code_wherever_it_is_mapped() {
        let store = ObjectStore::new();
        let own = AddressSpace::capture(Pid(std::process::id()), &store).unwrap();
        let address = Address(here as *const () as u64 + 1);
        let expected = own.locate(Address(address.0 - 1)).unwrap();
        // The same file elsewhere, as another process may have it.
        let (mut into, mut elsewhere) = (AddressSpace::empty(Pid(0)), AddressSpace::empty(Pid(2)));
        elsewhere.place(0x7000_0000, 0x7000_0000 + WINDOW, &expected);
        let mut pooled = Pooled::default();
        let first = pooled.adopt(&mut into, &own, address);
        let second = pooled.adopt(&mut into, &elsewhere, Address(0x7000_0000 + expected.offset + 1));
        assert_eq!(first, second);
        let found = into.locate(Address(first.0 - 1)).unwrap();
        assert_eq!(found.offset, expected.offset);
        assert_eq!(found.object.unwrap().id(), expected.object.unwrap().id());
        assert_eq!(found.module, expected.module);
        // Other code of it is other code.
        assert_eq!(pooled.adopt(&mut into, &own, Address(address.0 + 16)), Address(first.0 + 16));
    }

    #[test]
    fn unknown_code_is_one_place_and_takes_none_away() {
        let (mut into, from) = (AddressSpace::empty(Pid(0)), AddressSpace::empty(Pid(2)));
        let mut pooled = Pooled::default();
        let places = [0, 1, 0x1000, u64::MAX].map(|address| pooled.adopt(&mut into, &from, Address(address)));
        assert_eq!(places, [UNKNOWN; 4]);
        assert!(into.locate(UNKNOWN).is_none() && into.mappings().next().is_none());
    }
}
