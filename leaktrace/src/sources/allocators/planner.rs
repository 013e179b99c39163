//! Threads that read files and plan their probes, so that a large one holds up no other.
//!
//! In: objects. Out: their plans, in the order in which they are ready.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use anyhow::Result;
use nix::sys::statfs::{CODA_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType, NFS_SUPER_MAGIC, fstatfs};

use super::layers::Identity;
use crate::elf;
use crate::elf::{Elf, ElfError, SegmentKind};
use crate::host::errno;
use crate::host::file_id::{Content, Excerpt, Version};
use crate::host::patience::{self, About};
use crate::kernel::probe;
use crate::probes::functions::AllocSymbol;
use crate::probes::plan::{self, Plan, PlanError, PlanOptions, Role, Seen};
use crate::probes::site::Emulation;
use crate::process::maps::{Object, ObjectId};
use crate::workers;

/// How many bytes before and behind the place of a probe are kept, by which the code there is recognised: more than the longest
/// instruction has.
const AROUND: (u64, u64) = (16, 32);

/// File systems that a process or another machine serves, beside those that nix names: 9p, Ceph, CIFS, SMB 2 and AFS (magic.h of
/// uapi/linux, `fs/ceph/super.h`, `fs/smb/client/cifsfs.h`, `fs/afs/afs_fs.h`).
const SERVED: [u32; 6] = [0x0102_1997, 0x00c3_6400, 0xff53_4d42, 0xfe53_4d42, 0x5346_414f, 0x6b41_4653];

/// More than a small machine has CPUs: small files need not wait for large ones.
const THREADS: usize = 4;

/// A planned file.
#[derive(Debug)]
pub struct Planned {
    /// Its path, for messages.
    pub path: PathBuf,
    /// Its probes.
    pub plan: Plan,
    /// The content that this holds for.
    pub content: Arc<Content>,
    /// To recognize it under another identity; `None` where its file system does not say.
    pub identity: Option<Identity>,
}

impl Planned {
    /// Whether there is nothing to probe.
    pub fn is_nothing(&self) -> bool {
        !self.plan.tells_allocations() && self.plan.linker.is_empty() && self.plan.annotations.is_empty()
    }

    /// Whether the file allocates by itself, so that no other file sees these calls; one that only passes calls on is no
    /// allocator.
    pub fn allocates_itself(&self) -> bool {
        let draws = !self.plan.samples.is_empty();
        draws || self.plan.role != Role::CxxRuntime && self.plan.probes.iter().any(|probe| !probe.calls_another)
    }

    /// Whether programs say by functions of the file what is no leak.
    pub fn is_annotated(&self) -> bool {
        !self.plan.annotations.is_empty()
    }

    /// The names of the functions that were found, whether they are probed or not.
    fn functions(&self) -> impl Iterator<Item = &str> {
        let probed = self.plan.probes.iter().map(|probe| &probe.names);
        let names = probed.chain(self.plan.skipped.iter().map(|skipped| &skipped.names));
        names.flatten().map(String::as_str)
    }

    /// Where its probes go, in bytes, by which it is recognised under another identity: without the exits of functions that may
    /// throw, and without a linker's if there are others, since the kernel may refuse those alone.
    pub fn offsets(&self) -> impl Iterator<Item = u64> + use<> {
        let mut probes = probe::of(&self.plan);
        probes.retain(|probe| !probe.exits());
        let has_functions = probes.iter().any(|probe| !probe.is_linkers());
        probes.into_iter().filter(move |probe| !has_functions || !probe.is_linkers()).map(|probe| probe.offset)
    }
}

/// What is planned for an object.
pub type PlanResult = (ObjectId, Result<Arc<Planned>, Unplanned>);

/// Why nothing is planned for an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unplanned {
    /// Code for another machine or word size, named here.
    Foreign(String),
    /// It cannot be read, or is no program or library.
    Unreadable(String),
}

impl Unplanned {
    fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<PlanError>() {
            Some(PlanError::Elf(ElfError::Foreign(machine))) => Self::Foreign(machine.clone()),
            _ => Self::Unreadable(format!("{error:#}")),
        }
    }
}

/// What to look for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Those of `--symbols-prefix`.
    pub prefixes: Vec<String>,
    /// Those of `--alloc-symbols`.
    pub symbols: Vec<AllocSymbol>,
    /// What the running kernel emulates.
    pub emulation: Emulation,
    /// How allocations are to be seen.
    pub seen: Seen,
    /// Whether calls are seen by one probe where that is possible.
    pub at_once: bool,
}

/// Starts the threads that plan; they end when the sender of objects is dropped.
///
/// # Errors
/// No thread can be made.
pub fn start<R: From<PlanResult> + Send + 'static>(
    wanted: &Wanted,
    results: &async_channel::Sender<R>,
) -> io::Result<Sender<Arc<Object>>> {
    let wanted = wanted.clone();
    let work = move |object: &Arc<Object>| R::from((object.id(), outcome(&wanted, object)));
    workers::start("plan", THREADS, results, work, |object, panic| {
        log::warn!("{} is not probed: reading it failed ({panic}); please report this", object.path().display());
        R::from((object.id(), Err(Unplanned::Unreadable(format!("reading it failed ({panic})")))))
    })
}

fn outcome(wanted: &Wanted, object: &Arc<Object>) -> Result<Arc<Planned>, Unplanned> {
    let question = {
        let (wanted, object) = (wanted.clone(), Arc::clone(object));
        move || object.open().map_err(anyhow::Error::from).and_then(|file| wanted.plan(&file, object.path()))
    };
    let (device, inode) = object.inode().unwrap_or_default();
    patience::within(patience::read_within(), About::File(device, inode), question)
        .unwrap_or_else(|| {
            log::warn!("{} is not probed: its file system does not answer", object.path().display());
            Err(anyhow::anyhow!("its file system does not answer"))
        })
        .inspect_err(|error| {
            // Most are no programs. In one that its file system cannot read there may be an allocator.
            let level = if errno::of(error) == Some(libc::EIO) { log::Level::Warn } else { log::Level::Debug };
            log::log!(level, "{} is not probed: {error}", object.path().display());
        })
        .map(Arc::new)
        .map_err(|error| Unplanned::of(&error))
}

/// Panics or does not come back where `LEAKTRACE_PLAN_PANICS` or `LEAKTRACE_PLAN_HANGS` names a part of the path: so that tests
/// see what the rest of the program does then.
#[cfg(debug_assertions)]
fn misbehave(path: &Path) {
    let names = |variable| std::env::var(variable).is_ok_and(|part| path.to_string_lossy().contains(&part));
    assert!(!names("LEAKTRACE_PLAN_PANICS"), "a test wants it");
    while names("LEAKTRACE_PLAN_HANGS") {
        log::debug!("{} is not read, since a test wants it", path.display());
        std::thread::park();
    }
}

impl Wanted {
    /// Plans one file.
    ///
    /// # Errors
    /// It cannot be read, or is no program or library.
    pub fn plan(&self, file: &File, path: &Path) -> Result<Planned> {
        #[cfg(debug_assertions)]
        misbehave(path);
        let version = Version::of(file)?;
        let bytes = elf::what_is_loaded(file)?;
        let options =
            |prefix| PlanOptions { prefix, symbols: &self.symbols, emulation: self.emulation, at_once: self.at_once };
        let mut plan = plan::plan(&bytes, &options(None))?;
        for prefix in &self.prefixes {
            let more = plan::plan(&bytes, &options(Some(prefix)))?;
            for probe in more.probes {
                if plan.probes.iter().all(|known| known.offset != probe.offset) {
                    plan.probes.push(probe);
                }
            }
            for skipped in more.skipped {
                if plan.skipped.iter().all(|known| known.names != skipped.names) {
                    plan.skipped.push(skipped);
                }
            }
            if plan.role == Role::None {
                plan.role = more.role;
            }
        }
        plan.choose(self.seen);
        let kind = fstatfs(file).map(|fs| fs.filesystem_type());
        let identity = kind.ok().and_then(|kind| Identity::of(file, kind).ok());
        let content = Content { version, excerpts: excerpts(&bytes, &plan), is_served: kind.map_or(true, is_served) };
        Ok(Planned { path: path.to_path_buf(), plan, content: Arc::new(content), identity })
    }

    /// What the user named and none of these files has, a sentence each.
    pub fn missing_in(&self, files: &[&Planned]) -> Vec<String> {
        let has = |is_meant: &dyn Fn(&str) -> bool| files.iter().any(|file| file.functions().any(is_meant));
        let symbols = self.symbols.iter().map(|symbol| &symbol.name).filter(|name| !has(&|found| found == *name));
        let prefixes = self.prefixes.iter().filter(|prefix| !has(&|found| found.starts_with(*prefix)));
        let symbols = symbols.map(|name| format!("no function {name} (--alloc-symbols)"));
        let prefixes = prefixes.map(|prefix| format!("no function with the prefix {prefix} (--symbols-prefix)"));
        let missing = symbols.chain(prefixes);
        missing.map(|what| format!("{what} was found in any file that was read; nm lists a file's functions")).collect()
    }
}

/// What is in a file around each place of a plan, as far as it is the same segment: of other parts there may be no copy.
fn excerpts(bytes: &[u8], plan: &Plan) -> BTreeMap<u64, Excerpt> {
    let segments = Elf::read(bytes).and_then(|elf| elf.segments()).unwrap_or_default();
    let excerpt = |offset: u64| {
        let mut loaded = segments.iter().filter(|segment| segment.kind == SegmentKind::Load);
        let segment = loaded.find(|segment| segment.holds_offset(offset))?;
        let start = offset.saturating_sub(AROUND.0).max(segment.offset);
        let end = offset.saturating_add(AROUND.1).min(segment.offset.saturating_add(segment.size));
        let found = bytes.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)?;
        Some((offset, Excerpt { start, bytes: found.to_vec() }))
    };
    probe::of(plan).iter().filter_map(|probe| excerpt(probe.offset)).collect()
}

/// Whether a file system asks a process or another machine, which may not answer, to open a file.
fn is_served(kind: FsType) -> bool {
    [FUSE_SUPER_MAGIC, NFS_SUPER_MAGIC, CODA_SUPER_MAGIC].contains(&kind) || SERVED.contains(&(kind.0 as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// glibc's file, and the plan for it.
    fn planned_libc() -> (PathBuf, Planned) {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path = maps.split_whitespace().find(|word| word.ends_with("/libc.so.6")).map(PathBuf::from).unwrap();
        let wanted = Wanted {
            prefixes: Vec::new(),
            symbols: Vec::new(),
            emulation: Emulation::for_kernel(6, 12),
            seen: Seen::Calls,
            at_once: true,
        };
        let planned = wanted.plan(&File::open(&path).unwrap(), &path).unwrap();
        (path, planned)
    }

    #[test]
    fn the_code_around_every_place_is_kept_as_it_is_in_the_file() {
        let (path, planned) = planned_libc();
        let file = File::open(path).unwrap();
        for probe in probe::of(&planned.plan) {
            let excerpt = &planned.content.excerpts[&probe.offset];
            assert_eq!((excerpt.start, excerpt.bytes.len()), (probe.offset - 16, 48));
            assert!(excerpt.is_in(&file).unwrap());
        }
        assert!(!planned.content.is_served);
    }

    #[test]
    fn names_that_no_file_has_are_told_from_those_that_one_has() {
        let wanted = |prefixes: &[&str], symbols: &[&str]| Wanted {
            prefixes: prefixes.iter().map(ToString::to_string).collect(),
            symbols: symbols.iter().map(|symbol| symbol.parse().unwrap()).collect(),
            emulation: Emulation::for_kernel(6, 12),
            seen: Seen::Calls,
            at_once: true,
        };
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path = maps.split_whitespace().find(|word| word.ends_with("/libc.so.6")).map(PathBuf::from).unwrap();
        let missing = |wanted: &Wanted| {
            let planned = wanted.plan(&File::open(&path).unwrap(), &path).unwrap();
            wanted.missing_in(&[&planned])
        };
        assert_eq!(missing(&wanted(&["__libc_"], &["__libc_memalign=memalign"])), Vec::<String>::new());
        let found = missing(&wanted(&["__libc_", "zz_"], &["nosuch=malloc", "malloc"]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("no function nosuch (--alloc-symbols) was found in any file that was read"));
        assert!(found[1].starts_with("no function with the prefix zz_ (--symbols-prefix) was found"), "{found:?}");
    }
}
