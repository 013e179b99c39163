//! Removes DWARF from a BPF object and leaves BTF: the kernel reads BTF, nobody reads DWARF, and it is most of the bytes.
//!
//! In: the object as bpf-linker wrote it. Out: the same programs, maps, symbols and BTF.

use anyhow::{Context as _, Result};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

/// Sections that only debuggers read, and the relocations of BTF, which are applied already (their symbols are at 0).
fn is_dropped(section: &[u8]) -> bool {
    section.starts_with(b".debug_") || section.starts_with(b".rel.debug_") || section.starts_with(b".rel.BTF")
}

/// The object without its DWARF.
pub fn without_dwarf(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the object that bpf-linker wrote")?;
    for section in &mut builder.sections {
        section.delete |= is_dropped(&section.name);
    }
    // The symbols of deleted sections.
    builder.delete_orphans();
    // LLVM puts section names into the table of symbol names; the writer requires a separate table.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    builder.set_section_sizes();
    let mut bytes = Vec::new();
    builder.write(&mut bytes).context("writing the stripped object")?;
    Ok(bytes)
}
