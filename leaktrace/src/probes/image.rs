//! An ELF image as far as probing needs it: symbols, code, file offsets, what it links to.
//!
//! The bytes are anybody's: every offset, size and count in them is checked before it is followed, work is bounded by the
//! length of the image, and whatever cannot be read is simply not there. Nothing here knows an allocator.

mod links;
mod symbols;

use object::LittleEndian as LE;
use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};

pub use links::Links;
pub use symbols::{Extent, Sort, Symbol};

use super::site::Machine;

/// Why an image cannot be probed at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Not ELF, or its headers lead outside of it.
    #[error("not a readable ELF image: {0}")]
    Malformed(&'static str),
    /// ELF of another machine or word size.
    #[error("{0} code cannot be traced, only x86-64 and aarch64")]
    Foreign(String),
}

/// Linkers make one or two; every symbol is looked up in all of them.
const MAX_CODE_SEGMENTS: usize = 64;

/// A loaded segment of code.
#[derive(Debug, Clone, Copy)]
struct Code<'a> {
    address: u64,
    offset: u64,
    bytes: &'a [u8],
}

/// A parsed image. Borrows its bytes.
#[derive(Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    machine: Machine,
    segments: &'a [ProgramHeader64<LE>],
    sections: &'a [SectionHeader64<LE>],
    code: Vec<Code<'a>>,
    dynamic: Dynamic,
    has_interpreter: bool,
    fixed_address: bool,
}

/// What the dynamic section says, as far as it is needed; addresses are virtual.
#[derive(Debug, Default)]
struct Dynamic {
    soname: Option<u64>,
    needs_others: bool,
    strings: Option<u64>,
    strings_size: u64,
    symbols: Option<u64>,
    hash: Option<u64>,
    gnu_hash: Option<u64>,
    plt_relocations: Option<(u64, u64)>,
    relocations: Option<(u64, u64)>,
}

impl<'a> Image<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    ///
    /// If this is no ELF image of a program or library for a machine we trace.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        let ident = bytes.get(..elf_ident::LENGTH).ok_or(ElfError::Malformed("too short"))?;
        if ident[..4] != elf::ELFMAG {
            return Err(ElfError::Malformed("no ELF header"));
        }
        let machine_number = bytes.get(18..20).map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
        let machine = match (ident[elf_ident::CLASS], ident[elf_ident::DATA], elf::Machine(machine_number)) {
            (elf_ident::CLASS_64, elf_ident::LITTLE_ENDIAN, elf::EM_X86_64) => Machine::X86_64,
            (elf_ident::CLASS_64, elf_ident::LITTLE_ENDIAN, elf::EM_AARCH64) => Machine::Aarch64,
            (class, _, machine) => return Err(ElfError::Foreign(foreign(class, machine))),
        };
        let header = FileHeader64::<LE>::parse(bytes).map_err(|_| ElfError::Malformed("bad ELF header"))?;
        let kind = header.e_type(LE);
        if kind != elf::ET_DYN && kind != elf::ET_EXEC {
            return Err(ElfError::Malformed("neither a program nor a shared object"));
        }
        let segments = header.program_headers(LE, bytes).map_err(|_| ElfError::Malformed("bad program headers"))?;
        // Section headers are not needed to run a program, so they may be anything.
        let sections = header.section_headers(LE, bytes).unwrap_or_default();
        let mut image = Self {
            bytes,
            machine,
            segments,
            sections,
            code: Vec::new(),
            dynamic: Dynamic::default(),
            has_interpreter: segments.iter().any(|segment| segment.p_type(LE) == elf::PT_INTERP),
            fixed_address: kind == elf::ET_EXEC,
        };
        image.code = image.code_segments()?;
        image.dynamic = image.read_dynamic();
        Ok(image)
    }

    /// The instruction set.
    #[must_use]
    pub fn machine(&self) -> Machine {
        self.machine
    }

    /// Whether it asks for a dynamic linker. Programs do unless they are static; of libraries only glibc's own does.
    #[must_use]
    pub fn has_interpreter(&self) -> bool {
        self.has_interpreter
    }

    /// Whether it names other libraries that it needs.
    #[must_use]
    pub fn needs_others(&self) -> bool {
        self.dynamic.needs_others
    }

    /// Whether it is there for other objects to link with: it has a name for that, or exports functions and cannot be run.
    #[must_use]
    pub fn is_library(&self) -> bool {
        self.soname().is_some() || (!self.fixed_address && !self.has_interpreter && self.exports_functions())
    }

    /// The name by which other objects ask for this library.
    #[must_use]
    pub fn soname(&self) -> Option<&'a [u8]> {
        let strings = self.at_address(self.dynamic.strings?, self.dynamic.strings_size)?;
        let name = strings.get(usize::try_from(self.dynamic.soname?).ok()?..)?;
        // Longer than any path component: no name.
        symbols::terminated(name, 255)
    }

    /// The code segments, each with the address of its first byte.
    pub fn code_ranges(&self) -> impl Iterator<Item = (u64, &'a [u8])> {
        self.code.iter().map(|code| (code.address, code.bytes))
    }

    /// The bytes of read-only data and code, segment by segment, as far as they are in the file.
    pub fn constant_ranges(&self) -> impl Iterator<Item = &'a [u8]> {
        let constant = |segment: &&ProgramHeader64<LE>| {
            segment.p_type(LE) == elf::PT_LOAD && !segment.p_flags(LE).contains(elf::PF_W)
        };
        self.segments.iter().filter(constant).filter_map(|segment| segment.data(LE, self.bytes).ok())
    }

    /// Where in the file the code at this address is: what a uprobe is attached to.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        let code = self.code_at(address)?;
        Some(code.offset + (address - code.address))
    }

    /// The code from this address on, `length` bytes or as many as the segment has.
    #[must_use]
    pub fn code(&self, address: u64, length: usize) -> Option<&'a [u8]> {
        let code = self.code_at(address)?;
        let rest = &code.bytes[(address - code.address) as usize..];
        Some(&rest[..length.min(rest.len())])
    }

    /// The build id, by which the same build is recognised wherever it lies.
    #[must_use]
    pub fn build_id(&self) -> Option<&'a [u8]> {
        let in_segments = self.segments.iter().filter_map(|segment| segment.notes(LE, self.bytes).ok().flatten());
        let in_sections = self.sections.iter().filter_map(|section| section.notes(LE, self.bytes).ok().flatten());
        in_segments.chain(in_sections).find_map(|mut notes| {
            while let Ok(Some(note)) = notes.next() {
                if note.name() == elf::ELF_NOTE_GNU && note.n_type(LE) == elf::NT_GNU_BUILD_ID {
                    return Some(note.desc());
                }
            }
            None
        })
    }

    /// Whether somebody of this name has left a note.
    #[must_use]
    pub fn has_note_of(&self, owner: &[u8]) -> bool {
        let in_segments = self.segments.iter().filter_map(|segment| segment.notes(LE, self.bytes).ok().flatten());
        in_segments.into_iter().any(|mut notes| {
            while let Ok(Some(note)) = notes.next() {
                if note.name() == owner {
                    return true;
                }
            }
            false
        })
    }

    fn code_at(&self, address: u64) -> Option<&Code<'a>> {
        self.code.iter().find(|code| address.checked_sub(code.address).is_some_and(|at| at < code.bytes.len() as u64))
    }

    /// Segments that are mapped executable. Together they cannot be longer than the file, unless somebody plays tricks.
    fn code_segments(&self) -> Result<Vec<Code<'a>>, ElfError> {
        let mut code = Vec::new();
        let mut total = 0;
        for segment in self.segments {
            if segment.p_type(LE) != elf::PT_LOAD || !segment.p_flags(LE).contains(elf::PF_X) {
                continue;
            }
            let Ok(bytes @ [_, ..]) = segment.data(LE, self.bytes) else { continue };
            let (address, offset) = (segment.p_vaddr(LE), segment.p_offset(LE));
            if address.checked_add(bytes.len() as u64).is_none() {
                return Err(ElfError::Malformed("a segment wraps around the address space"));
            }
            total += bytes.len();
            if total > self.bytes.len() || code.len() == MAX_CODE_SEGMENTS {
                return Err(ElfError::Malformed("too many code segments"));
            }
            code.push(Code { address, offset, bytes });
        }
        Ok(code)
    }

    /// The bytes at a virtual address, from whichever segment has them in the file.
    fn at_address(&self, address: u64, size: u64) -> Option<&'a [u8]> {
        let mut loaded = self.segments.iter().filter(|segment| segment.p_type(LE) == elf::PT_LOAD);
        loaded.find_map(|segment| segment.data_range(LE, self.bytes, address, size).ok().flatten())
    }

    /// The bytes from a virtual address to the end of its segment.
    fn rest_at_address(&self, address: u64) -> Option<&'a [u8]> {
        let loaded = self.segments.iter().filter(|segment| segment.p_type(LE) == elf::PT_LOAD);
        loaded
            .filter_map(|segment| {
                let at = usize::try_from(address.checked_sub(segment.p_vaddr(LE))?).ok()?;
                segment.data(LE, self.bytes).ok()?.get(at..)
            })
            .find(|bytes| !bytes.is_empty())
    }

    fn read_dynamic(&self) -> Dynamic {
        let mut dynamic = Dynamic::default();
        let entries = self.segments.iter().find_map(|segment| segment.dynamic(LE, self.bytes).ok().flatten());
        let Some(entries) = entries else { return dynamic };
        let (mut plt, mut plt_size, mut rela, mut rela_size) = (None, 0, None, 0);
        for entry in entries {
            let value = entry.d_val.get(LE);
            match entry.d_tag.get(LE) {
                elf::DT_NULL => break,
                elf::DT_SONAME => dynamic.soname = Some(value),
                elf::DT_NEEDED => dynamic.needs_others = true,
                elf::DT_STRTAB => dynamic.strings = Some(value),
                elf::DT_STRSZ => dynamic.strings_size = value,
                elf::DT_SYMTAB => dynamic.symbols = Some(value),
                elf::DT_HASH => dynamic.hash = Some(value),
                elf::DT_GNU_HASH => dynamic.gnu_hash = Some(value),
                elf::DT_JMPREL => plt = Some(value),
                elf::DT_PLTRELSZ => plt_size = value,
                elf::DT_RELA => rela = Some(value),
                elf::DT_RELASZ => rela_size = value,
                _ => {}
            }
        }
        dynamic.plt_relocations = plt.map(|address| (address, plt_size));
        dynamic.relocations = rela.map(|address| (address, rela_size));
        dynamic
    }
}

mod elf_ident {
    //! Offsets and values of `e_ident` (System V ABI, ELF header), for telling machines apart before anything is parsed.
    pub const LENGTH: usize = 16;
    pub const CLASS: usize = 4;
    pub const CLASS_64: u8 = 2;
    pub const DATA: usize = 5;
    pub const LITTLE_ENDIAN: u8 = 1;
}

fn foreign(class: u8, machine: elf::Machine) -> String {
    match machine {
        elf::EM_386 => "i386".to_owned(),
        elf::EM_X86_64 if class != elf_ident::CLASS_64 => "x32".to_owned(),
        elf::EM_ARM => "32-bit ARM".to_owned(),
        elf::EM_RISCV => "RISC-V".to_owned(),
        elf::EM_PPC64 => "PowerPC".to_owned(),
        elf::EM_S390 => "s390".to_owned(),
        elf::Machine(number) => format!("machine {number}"),
    }
}
