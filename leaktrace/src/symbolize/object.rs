//! All sources of names for the code of one object, in order of preference.
//!
//! 1. DWARF, in the object or in its separate debug file: inlined calls, functions, lines.
//! 2. Symbol tables: `.symtab` of the object and of its debug file, `.dynsym`, `.gnu_debugdata`.
//! 3. The stubs of the procedure linkage table.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::data::{DataFound, DataWanted, Variable};
use super::debugfile;
use super::demangle::{bounded, class_of_type_info, demangle, is_mangled};
use super::dwarf::{Dwarf, DwarfFrames, Place};
use super::elf::Elf;
use super::plt::Plt;
use super::symtab::SymbolTable;
use super::vetting::{self, Verdict};
use super::{Coverage, NoteReason};
use crate::elf;
use crate::process::maps::{Object, Root};

/// The longest mangled name of a class that is read, bytes.
const LONGEST_CLASS: u64 = 4096;

/// A frame without what differs between processes: its address and the object's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceFrame {
    pub(super) function: Option<String>,
    /// The function's name in the symbol table, where that differs.
    pub(super) symbol: Option<String>,
    pub(super) place: Place,
    pub(super) inlined: bool,
}

/// The frames at one address, innermost first.
pub(super) type SourceFrames = Arc<[SourceFrame]>;

/// A DWARF reader for the debug information in `file`, unless reading it would crash. The reader maps the file, so it gets a
/// copy, and the copy is what is vetted. `directories` is empty unless the file is an installed debug file.
fn vetted(file: &File, directories: &[PathBuf], notes: &mut Vec<NoteReason>) -> Option<Dwarf> {
    let copied = elf::sealed(file).map_err(|error| error.to_string()).and_then(|copy| {
        let copy = Arc::new(copy);
        Elf::read(Arc::clone(&copy)).map(|elf| (copy, elf)).map_err(|error| error.to_string())
    });
    let (copy, elf) = match copied {
        Ok(copied) => copied,
        Err(error) => {
            notes.push(NoteReason::DebugInformation(format!("its file {error}")));
            return None;
        }
    };
    let verdict = vetting::vet(&elf, !directories.is_empty());
    match verdict {
        Verdict::Sound => {}
        Verdict::TooDeep => notes.push(NoteReason::DebugInformation(format!(
            "it nests functions more than {} deep; inlined calls are not shown",
            vetting::MAX_DEPTH
        ))),
        Verdict::TooLarge => notes.push(NoteReason::DebugInformation("it unpacks to more than 4 GiB".to_owned())),
        Verdict::Elsewhere => notes.push(NoteReason::DebugInformation(
            "parts of it are in another file, which is followed from installed debug files alone".to_owned(),
        )),
    }
    let readable = matches!(verdict, Verdict::Sound | Verdict::TooDeep);
    readable.then(|| Dwarf::new(copy, directories, verdict == Verdict::Sound))
}

/// The names that the symbol tables of the file with these bytes have for these addresses; its debug information is vetted
/// too. For the fuzz target, which has no process that maps the file.
///
/// # Errors
/// It is no 64-bit ELF file.
#[doc(hidden)]
pub fn names_by_tables(bytes: Vec<u8>, addresses: &[u64]) -> io::Result<Vec<Option<String>>> {
    let elf = Elf::parse(bytes)?;
    let mut table = SymbolTable::default();
    table.add(&elf, ".symtab");
    if let Ok(Some(mini)) = debugfile::mini(&elf) {
        table.add(&mini, ".symtab");
    }
    table.add(&elf, ".dynsym");
    vetting::vet(&elf, false);
    let coverage = Coverage::default();
    let mut symbols = ObjectSymbols {
        elf,
        table,
        plt: OnceCell::new(),
        dwarf: None,
        coverage,
        notes: Vec::new(),
        debug: None,
        variables: OnceCell::new(),
    };
    // Without DWARF there is one frame at each address.
    Ok(symbols.resolve(addresses).iter().map(|frames| frames.first()?.function.clone()).collect())
}

/// The frame for an address of which nothing is known.
pub(super) fn unnamed() -> SourceFrames {
    Arc::new([SourceFrame { function: None, symbol: None, place: Place::default(), inlined: false }])
}

/// An object's symbols, read.
pub(super) struct ObjectSymbols {
    elf: Elf,
    table: SymbolTable,
    plt: OnceCell<Plt>,
    dwarf: Option<Dwarf>,
    coverage: Coverage,
    notes: Vec<NoteReason>,
    /// The separate debug file.
    debug: Option<Elf>,
    variables: OnceCell<SymbolTable>,
}

impl ObjectSymbols {
    /// Reads the symbol tables and finds the debug information; `fetched` is a debug file from a debuginfod server. The
    /// debug information itself is read on demand.
    ///
    /// Errors: the object is not what was mapped any more, or not an ELF file.
    pub(super) fn load(
        object: &Object,
        own_root: &Root,
        directories: &[PathBuf],
        fetched: Option<&Arc<File>>,
    ) -> Result<Self, NoteReason> {
        let unreadable = |error: std::io::Error| NoteReason::Unreadable(error.to_string());
        let file = Arc::new(object.open().map_err(unreadable)?);
        let elf = Elf::read(Arc::clone(&file)).map_err(|_| NoteReason::NotElf)?;
        let mut notes = Vec::new();
        let mut table = SymbolTable::default();
        table.add(&elf, ".symtab");
        let stripped = table.is_empty();

        let (mut dwarf, mut debug_elf) = (None, None);
        let mut debug_info = elf.has_debug_info();
        // If a program has both, the DWARF reader would follow the link by itself.
        if !elf.has_debug_info() || elf.section(".gnu_debuglink").is_some() {
            let (found, foreign) = match fetched.and_then(|file| debugfile::fetched(object, file)) {
                Some(debug) => (Some(debug), Vec::new()),
                None => debugfile::find(object, &elf, own_root, directories),
            };
            if let Some(debug) = found {
                table.add(&debug.elf, ".symtab");
                if debug.elf.has_debug_info() {
                    debug_info = true;
                    log::debug!("debug information of {} in {}", object.path().display(), debug.path.display());
                    let directories = if debug.installed { directories } else { &[] };
                    dwarf = vetted(&debug.file, directories, &mut notes);
                }
                debug_elf = Some(debug.elf);
            } else {
                notes.extend(foreign.into_iter().map(NoteReason::ForeignDebugFile));
            }
        }
        if dwarf.is_none() && elf.has_debug_info() {
            dwarf = vetted(&file, &[], &mut notes);
        }
        if stripped && table.is_empty() {
            match debugfile::mini(&elf) {
                Ok(Some(mini)) => table.add(&mini, ".symtab"),
                Ok(None) => {}
                Err(error) => notes.push(NoteReason::DebugInformation(format!(".gnu_debugdata: {error}"))),
            }
        }
        let coverage = Coverage { debug_info, symbols: !table.is_empty() };
        table.add(&elf, ".dynsym");
        if table.is_empty() && dwarf.is_none() {
            notes.push(NoteReason::NoSymbols);
        }
        let (plt, variables) = (OnceCell::new(), OnceCell::new());
        Ok(Self { elf, table, plt, dwarf, coverage, notes, debug: debug_elf, variables })
    }

    /// What there is to name its code by.
    pub(super) fn coverage(&self) -> Coverage {
        self.coverage
    }

    /// Bytes of the copy that its debug information is read from.
    pub(super) fn copied(&self) -> u64 {
        self.dwarf.as_ref().map_or(0, Dwarf::copied)
    }

    /// What reading it brought to light since the last call.
    pub(super) fn take_notes(&mut self) -> Vec<NoteReason> {
        std::mem::take(&mut self.notes)
    }

    /// Names these ELF virtual addresses.
    pub(super) fn resolve(&mut self, addresses: &[u64]) -> Vec<SourceFrames> {
        let described = match self.dwarf.as_ref().map(|dwarf| dwarf.resolve(addresses)) {
            Some(Ok(described)) => described,
            Some(Err(error)) => {
                self.notes.push(NoteReason::DebugInformation(error.to_string()));
                self.dwarf = None;
                Vec::new()
            }
            None => Vec::new(),
        };
        let mut described = described.into_iter();
        addresses.iter().map(|&address| self.frames(address, described.next().unwrap_or_default())).collect()
    }

    /// Reads what is wanted of the object's data.
    pub(super) fn data(&self, object: &Object, wanted: &DataWanted) -> DataFound {
        if wanted.variables.is_empty() && wanted.classes.is_empty() {
            return DataFound::default();
        }
        let class = |address: &u64| Some((*address, self.class_at(object, *address)?));
        let classes = wanted.classes.iter().filter_map(class).collect();
        DataFound { variables: self.variables(&wanted.variables), classes }
    }

    /// Names the variables that hold these ELF virtual addresses, given in ascending order: each variable once.
    fn variables(&self, addresses: &[u64]) -> Vec<Variable> {
        let table = self.variables.get_or_init(|| {
            let mut table = SymbolTable::default();
            table.add_variables(&self.elf, ".symtab");
            self.debug.iter().for_each(|debug| table.add_variables(debug, ".symtab"));
            table.add_variables(&self.elf, ".dynsym");
            table
        });
        let mut found: Vec<Variable> = Vec::new();
        for &address in addresses {
            if found.last().is_some_and(|last| last.bytes.contains(&address)) {
                continue;
            }
            found.extend(table.find_with_bytes(address).map(|(name, bytes)| Variable::new(name, bytes)));
        }
        found
    }

    /// The class whose mangled name stands at an ELF virtual address of the object.
    fn class_at(&self, object: &Object, address: u64) -> Option<String> {
        let segment = object.segments().iter().find(|segment| segment.holds_address(address))?;
        let length = (segment.end() - address).min(LONGEST_CLASS);
        let bytes = self.elf.bytes_at(segment.address_to_offset(address), length).ok()?;
        class_of_type_info(elf::terminated(&bytes, LONGEST_CLASS as usize)?)
    }

    /// Stops using DWARF: it made its reader panic.
    pub(super) fn distrust_dwarf(&mut self, panic: String) {
        self.notes.push(NoteReason::DebugInformation(panic));
        self.dwarf = None;
    }

    fn frames(&self, address: u64, described: DwarfFrames) -> SourceFrames {
        let symbol = self.table.find(address);
        let (function, symbol) = match (described.function, symbol) {
            // DWARF has only the plain name if the compiler left the linkage name out: the symbol table's name says more.
            (Some(name), Some(symbol)) if is_mangled(symbol) && !is_mangled(name.as_bytes()) => named(symbol),
            // glibc's own name is __GI___strdup where others call strdup.
            (Some(name), Some(symbol)) if !is_mangled(symbol) && symbol != name.as_bytes() => {
                (Some(demangle(name.as_bytes())), bounded(symbol))
            }
            (Some(name), _) => named(name.as_bytes()),
            (None, Some(symbol)) => named(symbol),
            (None, None) => (self.stub(address), None),
        };
        let inlined = described.inlined.into_iter().map(|(name, place)| {
            let (function, symbol) = named(name.as_bytes());
            SourceFrame { function, symbol, place, inlined: true }
        });
        inlined.chain([SourceFrame { function, symbol, place: described.place, inlined: false }]).collect()
    }

    fn stub(&self, address: u64) -> Option<String> {
        let holds = |section: &&elf::Section| {
            section.name.starts_with(".plt")
                && address.checked_sub(section.address).is_some_and(|into| into < section.size)
        };
        self.elf.sections().iter().find(holds)?;
        self.plt.get_or_init(|| Plt::read(&self.elf)).find(address)
    }
}

/// A function's name as its author wrote it, and as the object has it where that is another name that can be kept.
fn named(symbol: &[u8]) -> (Option<String>, Option<String>) {
    let mangled = is_mangled(symbol).then(|| bounded(symbol)).flatten();
    (Some(demangle(symbol)), mangled)
}
