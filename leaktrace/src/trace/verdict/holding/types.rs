//! The classes of objects in blocks: an object with virtual functions begins with the address of its class' vtable.
//!
//! A vtable has the name of its class in a symbol table. Where that was stripped, the class calls itself by name in its
//! `std::type_info`, to which the vtable leads (Itanium C++ ABI, "Virtual Table Layout" and "RTTI Layout").

use std::collections::HashMap;
use std::sync::Arc;

use super::Holding;
use crate::kernel::drain::TabledBlock;
use crate::process::maps::{Loaded, Object, ObjectId};
use crate::symbolize::{DataWanted, Symbolizer};

/// The classes of a process' vtables, by address.
pub struct Types(HashMap<u64, Arc<str>>);

impl Types {
    /// Names all vtables at which blocks begin.
    pub fn find(holding: &Holding, loaded: &Loaded, symbolizer: &mut Symbolizer) -> Self {
        let mut wanted: HashMap<ObjectId, (Arc<Object>, DataWanted)> = HashMap::new();
        let mut want = |address: u64, ask: fn(&mut DataWanted, u64)| {
            let Some(place) = loaded.at(address) else { return };
            let of = wanted.entry(place.object.id());
            let (_, wanted) = of.or_insert_with(|| (Arc::clone(place.object), DataWanted::default()));
            ask(wanted, place.address);
        };
        for (address, table) in holding.tables.iter() {
            want(address, |wanted, address| wanted.variables.push(address));
            want(table.name, |wanted, address| wanted.classes.push(address));
        }
        let data = symbolizer.data(wanted.into_values());
        let by_symbol = |address: u64| {
            let place = loaded.at(address)?;
            data.variable(place.object, place.address)?.class.as_deref()
        };
        let by_itself = |name: u64| {
            let place = loaded.at(name)?;
            data.class(place.object, place.address)
        };
        let named = holding.tables.iter().filter_map(|(address, table)| {
            Some((address, Arc::from(by_symbol(address).or_else(|| by_itself(table.name))?)))
        });
        Self(named.collect())
    }

    /// The classes of the objects in blocks, by the block's position in ascending order.
    pub fn of_blocks<'a>(&'a self, holding: &Holding) -> impl Iterator<Item = (u32, &'a Arc<str>)> {
        let begins = holding.scan.vtables.iter().filter(|vtable| vtable.offset == 0);
        begins.filter_map(|vtable| Some((vtable.block, self.0.get(&vtable.address)?)))
    }

    /// The class of the objects at each site, if at least half of its blocks are objects, and all of one class.
    pub fn of_sites(&self, holding: &Holding) -> HashMap<u32, Arc<str>> {
        let mut seen: HashMap<u32, (Option<&Arc<str>>, usize)> = HashMap::new();
        for (block, class) in self.of_blocks(holding) {
            let site = holding.sites.get(block as usize).copied().filter(|site| *site < TabledBlock::UNRECORDED);
            let Some(site) = site else { continue };
            let (agreed, count) = seen.entry(site).or_insert((Some(class), 0));
            *count += 1;
            *agreed = agreed.filter(|agreed| *agreed == class);
        }
        let mut blocks: HashMap<u32, usize> = HashMap::new();
        holding
            .sites
            .iter()
            .filter(|site| seen.contains_key(site))
            .for_each(|site| *blocks.entry(*site).or_default() += 1);
        let is_most = |site: &u32, count: usize| count * 2 >= blocks.get(site).copied().unwrap_or(0);
        seen.iter()
            .filter(|(site, (_, count))| is_most(site, *count))
            .filter_map(|(site, (agreed, _))| Some((*site, Arc::clone((*agreed)?))))
            .collect()
    }
}
