//! Functions, inlined calls and source lines from DWARF, by blazesym.
//!
//! blazesym takes paths, maps the files, and caches what it has read by path. Each object therefore has its own symbolizer,
//! for the descriptor that is kept with it: no `/proc/self/fd` path is looked up after it names another file. The mapped
//! file is a sealed copy, which nobody can truncate under the reader.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized, Symbolizer};

/// The debug information of one object.
pub(super) struct Dwarf {
    symbolizer: Symbolizer,
    source: Source<'static>,
    /// The file that the path in `source` names.
    file: Arc<File>,
}

/// What DWARF says of an address.
#[derive(Debug, Default)]
pub(super) struct DwarfFrames {
    /// The function that holds the code, by its linkage name; `None` where DWARF does not describe it.
    pub(super) function: Option<String>,
    /// Where in that function.
    pub(super) place: Place,
    /// Functions inlined there, innermost first, by their linkage names.
    pub(super) inlined: Vec<(String, Place)>,
}

/// A line of source.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: Option<PathBuf>,
    pub(super) line: Option<u32>,
}

impl Dwarf {
    /// For the DWARF in `file`; `directories` may hold files that it shares with others (`.gnu_debugaltlink`). Inlined calls
    /// are read by recursion as deep as the file nests them: without `inlined` they are not read, for files that nest them
    /// too deep.
    pub(super) fn new(file: Arc<File>, directories: &[PathBuf], inlined: bool) -> Self {
        let symbolizer = Symbolizer::builder()
            // The path leads to an open descriptor of a file that does not change.
            .enable_auto_reload(false)
            .enable_demangling(false)
            .enable_inlined_fns(inlined)
            .set_debug_dirs(Some(directories))
            .build();
        let source = Source::Elf(Elf::new(format!("/proc/self/fd/{}", file.as_raw_fd())));
        Self { symbolizer, source, file }
    }

    /// Bytes of the file.
    pub(super) fn copied(&self) -> u64 {
        self.file.metadata().map_or(0, |status| status.len())
    }

    /// For each of these ELF virtual addresses what DWARF says of it.
    ///
    /// Errors: the debug information as a whole cannot be read.
    pub(super) fn resolve(&self, addresses: &[u64]) -> blazesym::Result<Vec<DwarfFrames>> {
        let answers = self.symbolizer.symbolize(&self.source, Input::VirtOffset(addresses))?;
        Ok(answers
            .iter()
            .zip(addresses)
            .map(|(answer, &address)| match answer {
                Symbolized::Sym(symbol) => frames(symbol, address),
                Symbolized::Unknown(_) => DwarfFrames::default(),
            })
            .collect())
    }
}

fn frames(symbol: &Sym<'_>, address: u64) -> DwarfFrames {
    // If DWARF has no function, blazesym answers from the symbol table, where it extends a symbol without a size to the next
    // one. A DWARF function in several pieces has neither start nor size.
    let covers = match symbol.size {
        Some(size) => address.checked_sub(symbol.addr).is_some_and(|into| into < size as u64),
        None => symbol.addr == 0,
    };
    DwarfFrames {
        function: (covers && !symbol.name.is_empty()).then(|| symbol.name.to_string()),
        place: symbol.code_info.as_deref().map_or_else(Place::default, place),
        inlined: symbol
            .inlined
            .iter()
            .rev()
            .filter(|inlined| !inlined.name.is_empty())
            .map(|inlined| (inlined.name.to_string(), inlined.code_info.as_ref().map_or_else(Place::default, place)))
            .collect(),
    }
}

fn place(code: &CodeInfo<'_>) -> Place {
    Place {
        file: (!code.file.is_empty()).then(|| code.to_path().into_owned()),
        // Line 0 is code that belongs to no line (DWARF 5, 6.2.2).
        line: code.line.filter(|&line| line != 0),
    }
}
