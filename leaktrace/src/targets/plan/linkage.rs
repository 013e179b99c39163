//! Which candidates only pass their calls on to another function that is probed, here or in another object.

use iced_x86::{Code, Decoder, DecoderOptions, Mnemonic};

use super::survey::Candidate;
use crate::targets::elf::{Image, Links};
use crate::targets::functions::{Family, Signature, Table};
use crate::targets::site::{Destination, Machine, forward};

/// A linkage stub has at most `endbr64` and `bnd jmp`, and is 16 bytes long.
const STUB_LENGTH: usize = 16;

/// For each candidate the name of the function to which it passes its calls on, if that is all it does.
pub(super) fn forwarders(image: &Image<'_>, table: &Table, candidates: &[Candidate]) -> Vec<Option<String>> {
    if image.machine() != Machine::X86_64 {
        return vec![None; candidates.len()];
    }
    let links = image.links(table.longest_name(), |name| table.find(name).is_some());
    let resolve = |destination| resolve(image, &links, table, candidates, destination);
    let forwarded = |candidate: &Candidate| {
        // What the user named is probed where the user said.
        if candidate.known.family == Family::User {
            return None;
        }
        forward(&candidate.function(image), candidate.known.signature, resolve)
            .filter(|name| !candidate.names.contains(name))
    };
    candidates.iter().map(forwarded).collect()
}

/// What is at a destination: one of the candidates, or a name that the dynamic linker will find.
fn resolve(
    image: &Image<'_>,
    links: &Links<'_>,
    table: &Table,
    candidates: &[Candidate],
    destination: Destination,
) -> Option<(Signature, String)> {
    let slot = match destination {
        Destination::Slot(slot) => slot,
        Destination::Address(address) => {
            if let Ok(index) = candidates.binary_search_by_key(&address, |candidate| candidate.extent.address) {
                let candidate = &candidates[index];
                return Some((candidate.known.signature, candidate.names.first()?.clone()));
            }
            stub_slot(image, address)?
        }
    };
    let name = links.at(slot)?;
    // Only names that an allocator provides under that name and no other way: whoever defines them has them probed.
    let known = table.find(name).filter(|known| known.family != Family::Cxx && known.family != Family::Overridden)?;
    Some((known.signature, String::from_utf8_lossy(name).into_owned()))
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
