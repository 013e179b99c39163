//! Which candidates call other probed functions, here or in another object, and which do nothing else.

use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic};

use super::survey::Candidate;
use crate::probes::functions::{Family, Table};
use crate::probes::image::{Image, Links};
use crate::probes::site::{Destination, Machine, Reached, calls, forward};

/// A linkage stub has at most `endbr64` and `bnd jmp`, and is 16 bytes long.
const STUB_LENGTH: usize = 16;

/// Functions that wrappers call and that neither allocate nor free: jemalloc's aligned `operator delete` calls `ffs` or its
/// like.
const HARMLESS: &[&[u8]] = &[b"ffs", b"ffsl", b"ffsll", b"__stack_chk_fail"];

/// What the code of a candidate does with other functions that are probed.
#[derive(Debug, Clone, Default)]
pub(super) struct Linkage {
    /// The name of the one to which it passes its calls on, if that is all it does.
    pub(super) forwards: Option<String>,
    /// Whether it calls one, or may.
    pub(super) calls: bool,
}

/// What each candidate does with the others, and with functions of other objects.
pub(super) fn of(image: &Image<'_>, table: &Table, candidates: &[Candidate]) -> Vec<Linkage> {
    if image.machine() != Machine::X86_64 {
        return vec![Linkage { forwards: None, calls: true }; candidates.len()];
    }
    let links = image.links(table.longest_name(), |name| HARMLESS.contains(&name) || table.find(name).is_some());
    let resolve = |destination| resolve(image, &links, table, candidates, destination);
    let linkage = |candidate: &Candidate| {
        let function = candidate.function(image);
        // A function that the user named is probed itself, even if it only forwards.
        let may_forward = candidate.known.family != Family::User;
        let forwards = may_forward.then(|| forward(&function, candidate.known.signature, resolve)).flatten();
        Linkage { forwards: forwards.filter(|name| !candidate.names.contains(name)), calls: calls(&function, resolve) }
    };
    candidates.iter().map(linkage).collect()
}

/// What is at a destination: one of the candidates, or a name that the dynamic linker will find.
fn resolve(
    image: &Image<'_>,
    links: &Links<'_>,
    table: &Table,
    candidates: &[Candidate],
    destination: Destination,
) -> Option<Reached<String>> {
    let slot = match destination {
        Destination::Slot(slot) => slot,
        Destination::Address(address) => {
            if let Ok(index) = candidates.binary_search_by_key(&address, |candidate| candidate.extent.address) {
                let candidate = &candidates[index];
                return Some(Reached::Probed(candidate.known.signature, candidate.names.first()?.clone()));
            }
            stub_slot(image, address)?
        }
    };
    let name = links.at(slot)?;
    if HARMLESS.contains(&name) {
        return Some(Reached::Harmless);
    }
    // Only names that always belong to an allocator: whichever object defines such a name has it probed.
    let known = table.find(name).filter(|known| known.family != Family::Cxx && known.family != Family::Overridden)?;
    Some(Reached::Probed(known.signature, String::from_utf8_lossy(name).into_owned()))
}

/// The slot through which a stub of the procedure linkage table jumps.
fn stub_slot(image: &Image<'_>, address: u64) -> Option<u64> {
    let code = image.code(address, STUB_LENGTH)?;
    let mut decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    let mut instruction = decoder.decode();
    if instruction.mnemonic() == Mnemonic::Endbr64 {
        instruction = decoder.decode();
    }
    (instruction.code() == Code::Jmp_rm64 && instruction.is_ip_rel_memory_operand())
        .then(|| instruction.ip_rel_memory_address())
}
