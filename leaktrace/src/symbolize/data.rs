//! Names for data: variables, and the classes of objects.
//!
//! In: addresses of data in loaded files. Out: the variables that hold them, by symbol tables alone, and the classes whose names
//! stand there. A name is used as far as its symbol's size says; what a file calls a class must read as a mangled name.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::Symbolizer;
use super::demangle::{class_of_vtable, demangle};
use crate::process::maps::{Object, ObjectId};

/// A variable of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Where it lies, in the object's own numbering.
    pub bytes: Range<u64>,
    /// Its name, demangled.
    pub name: String,
    /// The class whose vtable it is, if it is one.
    pub class: Option<String>,
}

impl Variable {
    pub(super) fn new(symbol: &[u8], bytes: Range<u64>) -> Self {
        Self { bytes, name: demangle(symbol), class: class_of_vtable(symbol) }
    }
}

/// What is asked of an object's data, by addresses in its own numbering.
#[derive(Debug, Clone, Default)]
pub struct DataWanted {
    /// The variables that hold these.
    pub variables: Vec<u64>,
    /// The classes whose mangled names stand here.
    pub classes: Vec<u64>,
}

/// What there is.
#[derive(Debug, Clone, Default)]
pub(super) struct DataFound {
    pub(super) variables: Vec<Variable>,
    /// Classes by the addresses of their names.
    pub(super) classes: HashMap<u64, String>,
}

/// Data of several objects, with names.
#[derive(Debug, Default)]
pub struct Data {
    of: HashMap<ObjectId, DataFound>,
}

impl Data {
    /// The variable that holds an address of an object.
    #[must_use]
    pub fn variable(&self, object: &Object, address: u64) -> Option<&Variable> {
        let variables = &self.of.get(&object.id())?.variables;
        let behind = variables.partition_point(|variable| variable.bytes.start <= address);
        // One may lie in another.
        let before = variables[..behind].iter().rev().take(8);
        before.into_iter().find(|variable| variable.bytes.contains(&address))
    }

    /// The class whose name stands at an address of an object.
    #[must_use]
    pub fn class(&self, object: &Object, address: u64) -> Option<&str> {
        self.of.get(&object.id())?.classes.get(&address).map(String::as_str)
    }
}

impl Symbolizer {
    /// Reads what is wanted of each object's data. Waits as [`Symbolizer::resolve`] does.
    pub fn data(&mut self, wanted: impl IntoIterator<Item = (Arc<Object>, DataWanted)>) -> Data {
        let (mut asked, mut objects) = (Vec::new(), Vec::new());
        for (object, mut data) in wanted {
            data.variables.sort_unstable();
            data.variables.dedup();
            objects.push(object.id());
            asked.extend(self.question(object, Vec::new(), data));
        }
        self.ask(asked);
        let found = objects.into_iter().filter_map(|id| {
            let mut found = std::mem::take(&mut self.objects.get_mut(&id)?.data);
            found.variables.sort_by_key(|variable| variable.bytes.start);
            Some((id, found))
        });
        Data { of: found.collect() }
    }
}
