//! When a program that has just been executed has all its libraries mapped and none of their constructors run.
//!
//! In: the image at its `exec` and the system calls that follow. Out: at which of them to hold.
//!
//! A dynamic linker maps everything first, then relocates, and makes each object's `PT_GNU_RELRO` part read-only when that
//! object is relocated: the libraries first, the executable last, constructors after that (glibc elf/rtld.c `dl_main`;
//! musl ldso/dynlink.c `reloc_all`, `__dls3`). So the mprotect of the executable's RELRO part is the place. It needs
//! nothing written into the program, and is thus harmless if we are killed meanwhile, as the usual breakpoint on
//! `_dl_debug_state` is not. Tried with glibc 2.36, 2.41 and 2.43 and musl 1.2.2, 1.2.3, 1.2.5 and 1.2.6.
//!
//! Audit libraries (`LD_AUDIT`) are mapped, relocated and initialized before all this: their constructors are not held, and
//! a system call of theirs is taken for one of the program.

use std::ops::Range;

use crate::elf::{self, DYNAMIC_ENTRY_SIZE, Dynamic, HEADER_SIZE, Header, PROGRAM_HEADER_SIZE, Segment, SegmentKind};
use crate::process::ptrace::SyscallEntry;

/// Where in its life a program is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeldAt {
    /// At its `exec`, before its first instruction: all there is to a program without a dynamic linker.
    Exec,
    /// All initial libraries are mapped, no constructor has run.
    Mapped,
    /// Later than the libraries' mapping: the dynamic linker did not show when it was done, and the program's own code has made
    /// a system call. What it allocated before may have been missed.
    Late,
    /// Anywhere, since it was asked for.
    Anywhere,
    /// About to end, its memory still in place.
    Exit,
}

/// What to do at a program's `exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// There is nothing to wait for.
    HoldNow,
    /// Follow its system calls.
    Watch(Watch),
}

/// What is known of a dynamic linker at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Watch {
    /// The pages of the executable that the linker makes read-only at last. Without such pages the first library's
    /// will do.
    executable_relro: Option<Range<u64>>,
    /// Where the linker itself is mapped.
    linker: Range<u64>,
    /// The linker is the C library as well (musl); its own pages are then protected with those of the libraries.
    linker_is_libc: bool,
}

/// What one system call tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The linker is still at work.
    GoOn,
    /// Hold here.
    Hold(HeldAt),
}

impl Watch {
    /// Judges a system call that is about to be made.
    pub(super) fn judge(&self, call: &SyscallEntry) -> Step {
        let [address, _, protection, ..] = call.args;
        if call.number == libc::SYS_mprotect as u64 && protection == libc::PROT_READ as u64 {
            let relocated = match &self.executable_relro {
                Some(relro) => relro.contains(&address),
                None => self.linker_is_libc || !self.linker.contains(&address),
            };
            if relocated {
                return Step::Hold(HeldAt::Mapped);
            }
        }
        if self.linker.contains(&call.ip) { Step::GoOn } else { Step::Hold(HeldAt::Late) }
    }
}

/// The entries of the auxiliary vector that say where things are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Auxv {
    program_headers: u64,
    program_header_count: u64,
    page_size: u64,
    linker_base: u64,
}

impl Auxv {
    /// Reads a 64-bit process' `/proc/PID/auxv`.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut auxv = Self::default();
        for pair in bytes.chunks_exact(16) {
            let (kind, value) = pair.split_at(8);
            let [kind, value] = [kind, value].map(|half| half.try_into().map_or(0, u64::from_ne_bytes));
            match kind {
                libc::AT_PHDR => auxv.program_headers = value,
                libc::AT_PHNUM => auxv.program_header_count = value,
                libc::AT_PAGESZ => auxv.page_size = value,
                libc::AT_BASE => auxv.linker_base = value,
                _ => {}
            }
        }
        auxv
    }
}

/// Decides what to do with a program at its `exec`. `read` fills a buffer from the program's memory; where the image is
/// not what an executed 64-bit ELF file looks like, there is nothing to wait for.
pub(super) fn plan(auxv: &Auxv, read: impl Fn(u64, &mut [u8]) -> bool) -> Plan {
    watch(auxv, &read).map_or(Plan::HoldNow, Plan::Watch)
}

fn watch(auxv: &Auxv, read: &impl Fn(u64, &mut [u8]) -> bool) -> Option<Watch> {
    let segments = segments(auxv.program_headers, auxv.program_header_count, read)?;
    let executable = Image { bias: bias(auxv.program_headers, &segments)?, segments };
    if auxv.linker_base == 0 {
        // A static program, unless it is a dynamic linker that was called by its name (`ld.so ./program`): that one has a
        // name for others to link with.
        return executable.has_soname(read).then(|| Watch {
            executable_relro: None,
            linker: executable.extent(),
            linker_is_libc: false,
        });
    }
    let headers = Header::parse(&structures(auxv.linker_base, 1, HEADER_SIZE as usize, read)?).ok()?;
    let headers = headers.program_headers().ok()?;
    let count = (headers.end - headers.start) / PROGRAM_HEADER_SIZE as u64;
    let segments = self::segments(auxv.linker_base.wrapping_add(headers.start), count, read)?;
    let linker = Image { bias: auxv.linker_base, segments };
    Some(Watch {
        executable_relro: executable.relro(auxv.page_size),
        linker: linker.extent(),
        linker_is_libc: executable.interpreter(read).is_some_and(|path| path.windows(4).any(|part| part == b"musl")),
    })
}

/// The most structures that are believed; real images have about a dozen program headers and forty dynamic entries.
const MOST: u64 = 512;

/// The bytes of `count` structures of `size` bytes each.
fn structures(address: u64, count: u64, size: usize, read: &impl Fn(u64, &mut [u8]) -> bool) -> Option<Vec<u8>> {
    if address == 0 || count == 0 || count > MOST {
        return None;
    }
    let mut bytes = vec![0; size * count as usize];
    read(address, &mut bytes).then_some(bytes)
}

fn segments(address: u64, count: u64, read: &impl Fn(u64, &mut [u8]) -> bool) -> Option<Vec<Segment>> {
    structures(address, count, PROGRAM_HEADER_SIZE, read).map(|bytes| elf::segments(&bytes))
}

/// The difference between an image's addresses in memory and in its file, from where its program headers ended up.
fn bias(at: u64, segments: &[Segment]) -> Option<u64> {
    let headers = segments.iter().find(|segment| segment.kind == SegmentKind::ProgramHeaders);
    let address = headers.map(|segment| segment.address).or_else(|| {
        let mut loaded = segments.iter().filter(|segment| segment.kind == SegmentKind::Load);
        // Every linker puts the program headers right behind the file header.
        loaded.find(|segment| segment.holds_offset(HEADER_SIZE)).map(|segment| segment.address_of(HEADER_SIZE))
    })?;
    Some(at.wrapping_sub(address))
}

/// A mapped ELF image.
struct Image {
    bias: u64,
    segments: Vec<Segment>,
}

impl Image {
    fn of_kind(&self, kind: SegmentKind) -> impl Iterator<Item = Range<u64>> {
        self.segments.iter().filter(move |segment| segment.kind == kind).map(|segment| {
            let start = self.bias.wrapping_add(segment.address);
            start..start.saturating_add(segment.memory_size)
        })
    }

    /// All addresses it takes up.
    fn extent(&self) -> Range<u64> {
        self.of_kind(SegmentKind::Load)
            .reduce(|all, part| all.start.min(part.start)..all.end.max(part.end))
            .unwrap_or_default()
    }

    /// The whole pages that the linker makes read-only; it rounds both ends down.
    fn relro(&self, page_size: u64) -> Option<Range<u64>> {
        let range = self.of_kind(SegmentKind::ReadOnlyLater).next()?;
        let page = |address: u64| address & !page_size.wrapping_sub(1);
        Some(page(range.start)..page(range.end)).filter(|pages| page_size.is_power_of_two() && !pages.is_empty())
    }

    /// The bytes of the path of its dynamic linker.
    fn interpreter(&self, read: &impl Fn(u64, &mut [u8]) -> bool) -> Option<Vec<u8>> {
        let range = self.of_kind(SegmentKind::Interpreter).next()?;
        structures(range.start, range.end - range.start, 1, read)
    }

    /// Whether other objects can be linked with it.
    fn has_soname(&self, read: &impl Fn(u64, &mut [u8]) -> bool) -> bool {
        let Some(range) = self.of_kind(SegmentKind::Dynamic).next() else { return false };
        let count = (range.end - range.start) / DYNAMIC_ENTRY_SIZE as u64;
        structures(range.start, count, DYNAMIC_ENTRY_SIZE, read)
            .is_some_and(|entries| Dynamic::parse(&entries).soname.is_some())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LINKER: Range<u64> = 0x7f00_0000_0000..0x7f00_0003_0000;

    fn glibc(executable_relro: Option<Range<u64>>) -> Watch {
        Watch { executable_relro, linker: LINKER, linker_is_libc: false }
    }

    fn mprotect(address: u64, protection: libc::c_int) -> SyscallEntry {
        SyscallEntry {
            number: libc::SYS_mprotect as u64,
            args: [address, 0x1000, protection as u64, 0, 0, 0],
            ip: LINKER.start + 0x100,
        }
    }

    #[test]
    fn the_executables_own_pages_are_waited_for() {
        let watch = glibc(Some(0x5500_0000_3000..0x5500_0000_4000));
        assert_eq!(watch.judge(&mprotect(0x7e00_0000_0000, libc::PROT_READ)), Step::GoOn, "a library's");
        assert_eq!(watch.judge(&mprotect(LINKER.start + 0x2000, libc::PROT_READ)), Step::GoOn, "the linker's own");
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        assert_eq!(watch.judge(&mprotect(0x5500_0000_3000, protection)), Step::GoOn, "text relocations");
        assert_eq!(watch.judge(&mprotect(0x5500_0000_3000, libc::PROT_READ)), Step::Hold(HeldAt::Mapped));
    }

    #[test]
    fn without_such_pages_a_librarys_will_do() {
        let watch = glibc(None);
        assert_eq!(watch.judge(&mprotect(0x7e00_0000_0000, libc::PROT_NONE)), Step::GoOn, "a hole in a mapping");
        assert_eq!(watch.judge(&mprotect(LINKER.start + 0x2000, libc::PROT_READ)), Step::GoOn);
        assert_eq!(watch.judge(&mprotect(0x7e00_0000_0000, libc::PROT_READ)), Step::Hold(HeldAt::Mapped));
        let musl = Watch { linker_is_libc: true, ..glibc(None) };
        assert_eq!(musl.judge(&mprotect(LINKER.start + 0x2000, libc::PROT_READ)), Step::Hold(HeldAt::Mapped));
    }

    #[test]
    fn a_call_from_elsewhere_means_that_the_program_runs() {
        let call = SyscallEntry { number: libc::SYS_write as u64, args: [1, 0, 0, 0, 0, 0], ip: 0x5500_0000_1000 };
        assert_eq!(glibc(None).judge(&call), Step::Hold(HeldAt::Late));
        assert_eq!(glibc(None).judge(&SyscallEntry { ip: LINKER.start, ..call }), Step::GoOn);
    }

    #[test]
    fn the_auxiliary_vector_is_read_up_to_its_end() {
        let words: [u64; 9] =
            [libc::AT_PHDR, 0x40, libc::AT_PHNUM, 13, libc::AT_BASE, 0x7f00, libc::AT_PAGESZ, 4096, 0];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let auxv = Auxv::parse(&bytes);
        let expected = Auxv { program_headers: 0x40, program_header_count: 13, page_size: 4096, linker_base: 0x7f00 };
        assert_eq!(auxv, expected);
    }

    proptest! {
        #[test]
        fn no_image_is_too_broken(
            memory in proptest::collection::vec(any::<u8>(), 4096),
            program_headers in 1_u64..2048,
            program_header_count in 0_u64..600,
            page_size in any::<u64>(),
            linker_base in 0_u64..2048,
        ) {
            let read = |address: u64, buffer: &mut [u8]| {
                let start = usize::try_from(address).unwrap_or(usize::MAX);
                let Some(bytes) = memory.get(start..start.saturating_add(buffer.len())) else { return false };
                buffer.copy_from_slice(bytes);
                true
            };
            plan(&Auxv { program_headers, program_header_count, page_size, linker_base }, read);
        }
    }
}
