//! Functions by which a program tells LeakSanitizer what is no leak (`sanitizer/lsan_interface.h` of LLVM's compiler-rt), as far as an
//! object defines them: a sanitizer, or a program that has some of its own, so that it can be built without one.
//!
//! In: the symbols of an image. Out: a probe for each function, at its entry, or why it has none. A program's own do nothing, and
//! functions of the same code are what linkers fold into one (`--icf=all`): a probe there would see calls of others.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions};

use super::error::{MAX_FUNCTIONS, PlanError};
use super::{Skipped, Why};
use crate::elf::SymbolKind;
use crate::probes::image::{Extent, Image};
use crate::probes::site::{LONGEST_INSTRUCTION, Machine, refusal};

/// What a program says by calling one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Annotation {
    /// The block in which an address lies is no leak.
    Ignore,
    /// What the thread allocates from now on is none.
    Disable,
    /// Ends that.
    Enable,
}

const NAMES: [(&str, Annotation); 3] = [
    ("__lsan_ignore_object", Annotation::Ignore),
    ("__lsan_disable", Annotation::Disable),
    ("__lsan_enable", Annotation::Enable),
];
/// The longest of them, bytes.
const LONGEST: usize = NAMES[0].0.len();

/// A function to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnotationProbe {
    /// Its name.
    pub name: &'static str,
    /// What its calls say.
    pub annotation: Annotation,
    /// Its entry's place in the file, in bytes.
    pub offset: u64,
}

/// What symbols say of one address.
struct Found {
    extent: Extent,
    /// Their names, and how many symbols have these.
    known: Vec<(&'static str, Annotation)>,
    symbols: usize,
}

/// All probes, and the functions that have none.
///
/// # Errors
/// More functions have these names than in any program.
pub(super) fn find(image: &Image<'_>) -> Result<(Vec<AnnotationProbe>, Vec<Skipped>), PlanError> {
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    for symbol in image.symbols(LONGEST).filter(|symbol| symbol.extent.kind != SymbolKind::Label) {
        let known = NAMES.iter().find(|(name, _)| name.as_bytes() == symbol.name);
        let Some(known) = known else { continue };
        let new = Found { extent: symbol.extent, known: Vec::new(), symbols: 0 };
        let at = found.entry(symbol.extent.address).or_insert(new);
        at.symbols += 1;
        if !at.known.contains(known) {
            at.known.push(*known);
        }
        if found.len() > MAX_FUNCTIONS {
            return Err(PlanError::TooManyFunctions);
        }
    }
    // The symbols of other names at their addresses.
    let mut all: BTreeMap<u64, usize> = found.keys().map(|address| (*address, 0)).collect();
    if !found.is_empty() {
        for extent in image.extents().filter(|extent| extent.kind != SymbolKind::Label) {
            all.entry(extent.address).and_modify(|symbols| *symbols += 1);
        }
    }
    let (mut probes, mut skipped) = (Vec::new(), Vec::new());
    for (address, Found { extent, known, symbols }) in found {
        let is_shared = all.get(&address).is_some_and(|all| *all > symbols);
        let why = match known.as_slice() {
            _ if extent.kind == SymbolKind::Resolver => Some(Why::Resolver),
            [_] if !is_shared => refused(image, address),
            _ => Some(Why::Folded),
        };
        let Some(why) = why else {
            if let (Some((name, annotation)), Some(offset)) = (known.first(), image.file_offset(address)) {
                probes.push(AnnotationProbe { name, annotation: *annotation, offset });
            }
            continue;
        };
        skipped.push(Skipped { names: known.iter().map(|(name, _)| (*name).to_owned()).collect(), why });
    }
    Ok((probes, skipped))
}

/// Why no probe can be put on an entry.
fn refused(image: &Image<'_>, address: u64) -> Option<Why> {
    if image.machine() != Machine::X86_64 {
        return None;
    }
    let code = image.code(address, LONGEST_INSTRUCTION).unwrap_or_default();
    let first = Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode();
    refusal(&first, code.get(..first.len()).unwrap_or_default()).map(Why::Refused)
}
