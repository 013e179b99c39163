//! Blocks that the block table's keys cannot name ([`crate::abi::block_key`]): at addresses of 48 bits and more, or of
//! another source than user allocators.
//!
//! What tells such a block from all others takes more than the 64 bits of a key. So a table of its own has a hash of it
//! for a key and all of it in the record, and a key counts as found only where its record has the same ([`Name::is_of`]):
//! two blocks with one hash have two places.

use crate::abi::Block;

/// Functions of user programs that hand out memory.
pub const SOURCE_ALLOCATORS: u8 = 0;

/// What tells a block from all others that are outstanding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    /// The process slot, not 0.
    pub process: u32,
    /// One of the `SOURCE_` constants: what hands out such addresses. Two sources may hand out the same.
    pub source: u8,
    /// Any 64 bits.
    pub address: u64,
}

/// An outstanding block with its name.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct WideBlock {
    /// As of all blocks.
    pub block: Block,
    /// [`Name::address`]
    pub address: u64,
    /// [`Name::process`]; 0 while the place is being filled or emptied.
    pub process: u32,
    /// [`Name::source`]
    pub source: u32,
}

const _: () = assert!(size_of::<WideBlock>() == 32);

impl Name {
    /// A block that a user program's allocator has handed out.
    #[inline(always)]
    #[must_use]
    pub const fn of_allocator(process: u32, address: u64) -> Self {
        Self { process, source: SOURCE_ALLOCATORS, address }
    }

    /// Its key, never 0. Blocks of one process and source have different ones (but for two addresses, since no key is 0).
    #[inline(always)]
    #[must_use]
    pub const fn key(self) -> u64 {
        let owner = (self.process as u64) << 8 | self.source as u64;
        // MurmurHash3's last mixing, which is a bijection.
        let mut key = self.address ^ owner.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        key = (key ^ key >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        key = (key ^ key >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        key ^= key >> 33;
        if key == 0 { 1 } else { key }
    }

    /// Whether a record is this block's. Nobody else makes or unmakes one of the same name meanwhile.
    ///
    /// # Safety
    /// `record` must be valid for reads.
    #[inline(always)]
    #[must_use]
    pub unsafe fn is_of(self, record: *const WideBlock) -> bool {
        // SAFETY: the caller's promise; each word is read whole.
        unsafe {
            (&raw const (*record).address).read_volatile() == self.address
                && (&raw const (*record).process).read_volatile() == self.process
                && (&raw const (*record).source).read_volatile() == u32::from(self.source)
        }
    }

    /// Writes the name into the record of a place that was just given to it.
    ///
    /// # Safety
    /// `record` must be valid for writes, and its place this name's.
    #[inline(always)]
    pub unsafe fn write(self, record: *mut WideBlock) {
        // SAFETY: the caller's promise; readers look at the process last.
        unsafe {
            (&raw mut (*record).address).write_volatile(self.address);
            (&raw mut (*record).source).write_volatile(u32::from(self.source));
            (&raw mut (*record).process).write_volatile(self.process);
        }
    }

    /// Takes the name out of its record, before its place is given up.
    ///
    /// # Safety
    /// `record` must be valid for writes, and this name's.
    #[inline(always)]
    pub unsafe fn erase(record: *mut WideBlock) {
        // SAFETY: the caller's promise.
        unsafe {
            (&raw mut (*record).block.site).write_volatile(0);
            (&raw mut (*record).process).write_volatile(0);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::cell::RefCell;
    use std::collections::HashMap;
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::abi::block_key;
    use crate::table::{self, Bucket, Buckets, Inserted, Place};

    /// A table of names as the programs have it.
    struct Table {
        keys: RefCell<Vec<Bucket>>,
        records: RefCell<Vec<WideBlock>>,
    }

    impl Buckets for Table {
        fn count(&self) -> u32 {
            self.keys.borrow().len() as u32
        }

        fn bucket(&self, index: u32) -> Option<*mut Bucket> {
            self.keys.borrow_mut().get_mut(index as usize).map(core::ptr::from_mut)
        }
    }

    impl Table {
        fn new(buckets: u32) -> Self {
            let keys = (0..buckets).map(|_| Bucket { keys: [0; table::BUCKET_KEYS], overflow: 0 }).collect();
            Self {
                keys: RefCell::new(keys),
                records: RefCell::new(vec![WideBlock::default(); table::positions(buckets) as usize]),
            }
        }

        fn is_of(&self, name: Name, index: u32) -> bool {
            // SAFETY: an element of the vector.
            unsafe { name.is_of(&raw const self.records.borrow()[index as usize]) }
        }

        fn insert(&self, name: Name) -> Inserted {
            let inserted = table::insert_where(self, name.key(), |index| self.is_of(name, index));
            if let Inserted::New(place) = inserted {
                // SAFETY: as above.
                unsafe { name.write(&raw mut self.records.borrow_mut()[place.index() as usize]) };
            }
            inserted
        }

        fn find(&self, name: Name) -> Option<Place> {
            table::find_where(self, name.key(), |index| self.is_of(name, index))
        }

        fn remove(&self, name: Name, place: Place) {
            // SAFETY: as above.
            unsafe { Name::erase(&raw mut self.records.borrow_mut()[place.index() as usize]) };
            table::remove(self, name.key(), place);
        }
    }

    fn owner(process: u32, source: u8) -> u64 {
        u64::from(process) << 8 | u64::from(source)
    }

    /// Another process' address that has the same key as this name.
    fn of_same_key(name: Name, process: u32, source: u8) -> Name {
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let (own, other) = (owner(name.process, name.source), owner(process, source));
        let address = name.address ^ own.wrapping_mul(SPREAD) ^ other.wrapping_mul(SPREAD);
        Name { process, source, address }
    }

    fn names() -> impl Strategy<Value = Name> {
        (1u32..1 << 16, any::<u8>(), any::<u64>()).prop_map(|(process, source, address)| Name {
            process,
            source,
            address,
        })
    }

    #[test]
    fn blocks_of_one_key_have_places_of_their_own() {
        let table = Table::new(31);
        let first = Name { process: 1, source: SOURCE_ALLOCATORS, address: 0xff00_7f12_3456_7890 };
        // More than a bucket holds.
        let all: Vec<_> = (1..=20).map(|process| of_same_key(first, process, SOURCE_ALLOCATORS)).collect();
        for name in &all {
            assert_eq!(name.key(), first.key());
            assert!(matches!(table.insert(*name), Inserted::New(_)));
        }
        for name in &all {
            assert_eq!(table.insert(*name), Inserted::Present(table.find(*name).expect("it is there")));
        }
        for (gone, name) in all.iter().enumerate() {
            table.remove(*name, table.find(*name).expect("it is there still"));
            assert!(all[..=gone].iter().all(|name| table.find(*name).is_none()));
            assert!(all[gone + 1..].iter().all(|name| table.find(*name).is_some()));
        }
        assert!(
            table.keys.borrow().iter().all(|bucket| bucket.keys == [0; table::BUCKET_KEYS] && bucket.overflow == 0)
        );
    }

    proptest! {
        #[test]
        fn every_address_has_exactly_one_kind_of_key(process in 1u32..1 << 16, address in any::<u64>(), bits in 0u32..64) {
            let address = address >> bits;
            let name = Name::of_allocator(process, address);
            prop_assert_ne!(name.key(), 0);
            prop_assert_eq!(block_key(process, address).is_none(), address >> 48 != 0);
        }

        #[test]
        fn addresses_of_one_process_and_source_have_keys_of_their_own(name in names(), other in any::<u64>(), bit in 0u32..64) {
            for address in [other, name.address ^ 1 << bit] {
                let other = Name { address, ..name };
                prop_assert_eq!(name.key() == other.key(), name == other || name.key() == 1);
            }
        }

        #[test]
        fn all_of_the_name_is_compared(name in names(), other in names()) {
            let mut record = WideBlock::default();
            // SAFETY: a record of our own.
            unsafe {
                prop_assert!(!name.is_of(&raw const record));
                name.write(&raw mut record);
                prop_assert!(name.is_of(&raw const record));
                let others = [
                    Name { process: other.process, ..name },
                    Name { source: other.source, ..name },
                    Name { address: other.address, ..name },
                    of_same_key(name, other.process, other.source),
                ];
                for other in others {
                    prop_assert_eq!(other.is_of(&raw const record), other == name);
                }
                Name::erase(&raw mut record);
                prop_assert!(!name.is_of(&raw const record));
            }
        }

        #[test]
        fn a_table_of_names_agrees_with_a_hash_map(
            steps in prop::collection::vec((any::<bool>(), 0u64..12, 1u32..12, 0u8..3), 1..1000), buckets in 16u32..60
        ) {
            let table = Table::new(buckets | 1);
            let mut model: HashMap<Name, Place> = HashMap::new();
            for (add, address, process, source) in steps {
                // Many of the same key.
                let first = Name { process: 1, source: 0, address: 0xffff_8880_0000_0000 + address * 64 };
                let name = of_same_key(first, process, source);
                if add {
                    match table.insert(name) {
                        Inserted::New(place) => prop_assert_eq!(model.insert(name, place), None),
                        Inserted::Present(place) => prop_assert_eq!(model.get(&name), Some(&place)),
                        Inserted::Full => prop_assert!(!model.contains_key(&name)),
                    }
                } else {
                    let found = table.find(name);
                    prop_assert_eq!(found, model.remove(&name));
                    if let Some(place) = found {
                        table.remove(name, place);
                    }
                }
            }
        }
    }
}
