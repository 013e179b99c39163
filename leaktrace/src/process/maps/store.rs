//! One descriptor per mapped file, shared by all processes that map it.
//!
//! A descriptor keeps the inode alive, so a file that is deleted, replaced or in a mount namespace that has gone can still
//! be read, and its inode number cannot be given to another file while we rely on it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::files::{Budget, ProcessDir, Root, Stamp, name, written_ns};
use super::layout::Layout;
use super::object::{Object, ObjectId, Source};
use super::{Device, Mapping, MappingName};
use crate::host::file_id::FileId;
use crate::host::patience::{self, About};

/// Holds the objects of all processes. Share one, in an [`Arc`], among all [`super::AddressSpace`]s.
#[derive(Debug)]
pub struct ObjectStore {
    known: Mutex<Index>,
    budget: Arc<Budget>,
    next: AtomicU64,
}

/// Where objects and what else is known of files are found.
#[derive(Debug, Default)]
struct Index {
    /// By what `maps` shows, so that a file seen before costs no look-up in `/proc`.
    by_mapping: HashMap<(Device, u64), Vec<Named>>,
    /// By `st_dev` and `st_ino`.
    by_file: HashMap<FileId, Arc<Object>>,
    /// Devices that `maps` and `stat` number differently (overlayfs, btrfs): there the numbers in `maps` do not name a file.
    ambiguous: HashSet<Device>,
    roots: HashMap<FileId, Arc<Root>>,
    own_root: Option<FileId>,
    vdso: Option<Arc<Object>>,
    /// Files of code that are there and could not be opened, with why.
    unopened: HashMap<PathBuf, String>,
    /// Files that could not be held.
    unheld: HashSet<PathBuf>,
}

impl Index {
    /// The object found before for such a mapping, if the file is still as it was.
    fn at(&self, mapping: &Mapping<'_>, path: &Path) -> Option<Named> {
        let named = self.by_mapping.get(&(mapping.device, mapping.inode))?;
        let (path, object) = named.iter().find(|(known, _)| **known == *path)?;
        object.is_current().then(|| (Arc::clone(path), Arc::clone(object)))
    }
}

/// An object under one of its paths.
type Named = (Arc<Path>, Arc<Object>);

/// Paths kept of files that could not be opened or held; more of them say nothing new.
const MAX_PROBLEMS: usize = 64;

impl ObjectStore {
    /// A store that holds at most half of the descriptors this process may have (`RLIMIT_NOFILE`, soft limit).
    #[must_use]
    pub fn new() -> Self {
        // 1024 is the kernel's own default (INR_OPEN_CUR).
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
            .map_or(1024, |(soft, _hard)| usize::try_from(soft).unwrap_or(usize::MAX));
        Self::with_limit(limit / 2)
    }

    /// A store that holds at most `limit` descriptors. Objects beyond it are found again by their path.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self { known: Mutex::default(), budget: Budget::new(limit), next: AtomicU64::new(0) }
    }

    /// Descriptors held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.budget.taken()
    }

    /// Why a file of code that is there could not be opened, by the path that mappings show; `None` where it was, or was gone.
    #[must_use]
    pub fn unopened(&self, path: &Path) -> Option<String> {
        self.lock().unopened.get(path).cloned()
    }

    /// Files that could not be kept open, as too many are.
    #[cfg(test)]
    pub(super) fn unheld(&self) -> Vec<PathBuf> {
        self.lock().unheld.iter().cloned().collect()
    }

    /// Lets go of objects that no address space refers to.
    pub fn forget_unused(&self) {
        forget_unused(&mut self.lock());
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The object behind an executable mapping and the path to show for it. `None` where there is no file, or where it
    /// cannot be opened.
    pub(super) fn object(&self, process: &ProcessDir, mapping: &Mapping<'_>) -> (Arc<Path>, Option<Arc<Object>>) {
        self.find(Some(process), mapping, &process.inside(mapping.name.display()))
    }

    /// The same for a mapping that the kernel has recorded, whose path is as the process sees it. Costs next to nothing
    /// for a file that is known, and does without the process where that has ended.
    pub(super) fn recorded(&self, pid: u32, mapping: &Mapping<'_>) -> (Arc<Path>, Option<Arc<Object>>) {
        let path = mapping.name.display();
        let known = {
            let known = self.lock();
            if known.ambiguous.contains(&mapping.device) { None } else { known.at(mapping, &path) }
        };
        match known {
            Some((path, object)) => (path, Some(object)),
            None => self.find(ProcessDir::open(pid).ok().as_ref(), mapping, &path),
        }
    }

    fn find(
        &self,
        process: Option<&ProcessDir>,
        mapping: &Mapping<'_>,
        shown: &Path,
    ) -> (Arc<Path>, Option<Arc<Object>>) {
        if mapping.name == MappingName::Vdso {
            return (Arc::from(shown), self.vdso(mapping.end.0 - mapping.start.0));
        }
        if !mapping.name.is_file() {
            return (Arc::from(shown), None);
        }

        let mut known = self.lock();
        let link = format!("map_files/{:x}-{:x}", mapping.start.0, mapping.end.0);
        let ambiguous = known.ambiguous.contains(&mapping.device);
        if let Some((path, object)) = known.at(mapping, shown)
            && (!ambiguous || process.is_none_or(|process| process.identify(&link).ok() == object.inode()))
        {
            return (path, Some(object));
        }

        let path: Arc<Path> = Arc::from(shown);
        let (file, stamp, layout) = match open_in_time(process, mapping, &path, link, ambiguous) {
            Ok(opened) => opened,
            Err(error) => {
                note_unopened(&mut known, &path, &error);
                return (path, None);
            }
        };
        if !stamp.is_on(mapping.device) {
            known.ambiguous.insert(mapping.device);
        }
        let identity = (stamp.device, stamp.inode);
        let object = match known.by_file.get(&identity) {
            Some(object) if object.is_same_build(&stamp, || layout.build_id.clone()) => Arc::clone(object),
            _ => {
                let object = Arc::new(self.hold(&mut known, process, Arc::clone(&path), (file, stamp, layout)));
                known.by_file.insert(identity, Arc::clone(&object));
                object
            }
        };
        let named = known.by_mapping.entry((mapping.device, mapping.inode)).or_default();
        named.retain(|(other, _)| **other != *path);
        named.push((Arc::clone(&path), Arc::clone(&object)));
        (path, Some(object))
    }

    fn hold(
        &self,
        known: &mut Index,
        process: Option<&ProcessDir>,
        path: Arc<Path>,
        (file, stamp, layout): (File, Stamp, Layout),
    ) -> Object {
        let root = process.and_then(|process| foreign_root(known, process));
        let written_ns = written_ns(&file);
        let permit = self.budget.take().or_else(|| {
            forget_unused(known);
            self.budget.take()
        });
        let source = if let Some(permit) = permit {
            Source::Held { file, stamp, _permit: permit }
        } else {
            let limit = self.budget.limit();
            if known.unheld.len() < MAX_PROBLEMS && known.unheld.insert(path.to_path_buf()) {
                log::info!(
                    "{}: not kept open, as {limit} files are already; its functions keep their names only while it stays \
                     in place (raise the limit on open files: ulimit -n)",
                    path.display()
                );
            }
            Source::Named { stamp }
        };
        Object { id: self.new_id(), path, source, layout, root, written_ns }
    }

    /// An object of which nothing can be read.
    #[cfg(test)]
    pub(super) fn for_tests(&self, path: &Path) -> Arc<Object> {
        let source = Source::Memory(Vec::new());
        Arc::new(Object {
            id: self.new_id(),
            path: Arc::from(path),
            source,
            layout: Layout::default(),
            root: None,
            written_ns: None,
        })
    }

    fn new_id(&self) -> ObjectId {
        ObjectId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The kernel maps the same code into every process of this word size: read it from our own memory, once.
    fn vdso(&self, length: u64) -> Option<Arc<Object>> {
        let mut known = self.lock();
        if known.vdso.is_none() {
            let bytes = own_vdso()?;
            let layout = Layout::parse(&bytes);
            let path = Arc::from(Path::new("[vdso]"));
            let object =
                Object { id: self.new_id(), path, source: Source::Memory(bytes), layout, root: None, written_ns: None };
            known.vdso = Some(Arc::new(object));
        }
        let object = known.vdso.as_ref()?;
        matches!(&object.source, Source::Memory(bytes) if bytes.len() as u64 == length).then(|| Arc::clone(object))
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        // Every update leaves the maps whole, so a panic elsewhere while they were locked does no harm.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ObjectStore {
    fn default() -> Self {
        Self::new()
    }
}

fn forget_unused(known: &mut Index) {
    // An object is unused when every reference to it is one of the store's own.
    let mut own: HashMap<ObjectId, (usize, usize)> = HashMap::new();
    let named = known.by_mapping.values().flatten().map(|(_, object)| object);
    for object in named.chain(known.by_file.values()) {
        let counts = own.entry(object.id).or_insert((0, Arc::strong_count(object)));
        counts.0 += 1;
    }
    let used = |object: &Arc<Object>| own.get(&object.id).is_none_or(|(own, all)| own < all);
    known.by_file.retain(|_, object| used(object));
    known.by_mapping.retain(|_, named| {
        named.retain(|(_, object)| used(object));
        !named.is_empty()
    });
    known.roots.retain(|_, root| Arc::strong_count(root) > 1);
}

/// The process' root where it is another than ours.
fn foreign_root(known: &mut Index, process: &ProcessDir) -> Option<Arc<Root>> {
    if known.own_root.is_none() {
        known.own_root = Root::own().ok().map(|root| root.id);
    }
    let id = process.identify("root").ok()?;
    if Some(id) == known.own_root {
        return None;
    }
    if let Some(root) = known.roots.get(&id) {
        return Some(Arc::clone(root));
    }
    let root = Arc::new(Root::of(process).ok()?);
    known.roots.insert(root.id, Arc::clone(&root));
    Some(root)
}

/// Keeps why a file cannot be opened, unless it is gone with its process, or no file of code at all (a device).
fn note_unopened(known: &mut Index, path: &Path, error: &io::Error) {
    let is_gone = error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH);
    if is_gone || error.kind() == io::ErrorKind::InvalidInput {
        log::debug!("{}: cannot be opened ({error}); its code is shown by offset", path.display());
    } else if known.unopened.len() < MAX_PROBLEMS && !known.unopened.contains_key(path) {
        let level = if error.kind() == io::ErrorKind::TimedOut { log::Level::Warn } else { log::Level::Info };
        log::log!(level, "{}: {error}; it goes without names and probes", path.display());
        known.unopened.insert(path.to_path_buf(), error.to_string());
    }
}

/// Whether the file behind the kernel's link for a mapping's addresses is the one that was mapped: another may have been mapped
/// there since. Where `maps` shows other device numbers than `stat` (overlayfs), inode numbers may differ too, and the name
/// decides.
fn is_what_was_mapped(process: &ProcessDir, mapping: &Mapping<'_>, link: &str, found: &Stamp) -> bool {
    if found.inode == mapping.inode {
        return true;
    }
    let shown =
        |path: &Path| path.file_name().map(|name| name.to_string_lossy().trim_end_matches(" (deleted)").to_owned());
    !found.is_on(mapping.device)
        && process.target(link).is_ok_and(|target| shown(&target) == shown(&mapping.name.display()))
}

/// [`open_mapped`], of which a name is kept, and the file's headers, unless its file system does not answer.
fn open_in_time(
    process: Option<&ProcessDir>,
    mapping: &Mapping<'_>,
    path: &Arc<Path>,
    link: String,
    ambiguous: bool,
) -> io::Result<(File, Stamp, Layout)> {
    let process = process.map(ProcessDir::try_clone).transpose()?;
    let mapping = mapping.to_owned();
    let path = Arc::clone(path);
    let Device { major, minor } = mapping.device;
    let about = About::file_system(libc::makedev(major, minor), mapping.inode);
    patience::answer(about, move || {
        let (file, stamp) = open_mapped(process.as_ref(), &mapping, &path, &link, ambiguous)?;
        let layout = Layout::read(&file);
        Ok((name(&file)?, stamp, layout))
    })
}

/// Opens what is mapped, by the kernel's own link to it or else by a path that leads to the same inode. Where the process has
/// ended, the path is looked up in our own root; `ambiguous` says that device numbers cannot confirm that it is the same file.
fn open_mapped(
    process: Option<&ProcessDir>,
    mapping: &Mapping<'_>,
    path: &Path,
    link: &str,
    ambiguous: bool,
) -> io::Result<(File, Stamp)> {
    let stamped = |file: File| Stamp::of(&file).map(|stamp| (file, stamp));
    let same = |(_, stamp): &(File, Stamp)| stamp.inode == mapping.inode;
    let mut error = io::Error::from_raw_os_error(libc::ESRCH);
    if let Some(process) = process {
        // Needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, and the mapping to be there still.
        match process.follow(link).and_then(stamped) {
            Ok(opened) if is_what_was_mapped(process, mapping, link, &opened.1) => return Ok(opened),
            Ok(_) => {}
            Err(refused) => error = refused,
        }
        if let Ok(opened) = process.follow("exe").and_then(stamped)
            && same(&opened)
        {
            return Ok(opened);
        }
    }
    if matches!(mapping.name, MappingName::File { .. }) {
        let theirs = process.and_then(|process| Root::of(process).ok());
        let gone = theirs.is_none();
        if let Ok(opened) = theirs.map_or_else(Root::own, Ok).and_then(|root| root.open(path)).and_then(stamped)
            && same(&opened)
            && (!gone || ambiguous || opened.1.is_on(mapping.device))
        {
            return Ok(opened);
        }
    }
    Err(error)
}

fn own_vdso() -> Option<Vec<u8>> {
    let maps = std::fs::read("/proc/self/maps").ok()?;
    let range = super::parse(&maps).flatten().find(|mapping| mapping.name == MappingName::Vdso)?;
    let mut bytes = vec![0; usize::try_from(range.end.0 - range.start.0).ok()?];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, range.start.0).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `maps` says of the code of this program, and of libc.
    fn with_own(check: impl Fn(&ProcessDir, Mapping<'_>)) {
        let process = ProcessDir::open(std::process::id()).expect("own directory");
        let text = std::fs::read("/proc/self/maps").expect("own mappings");
        let exe = std::env::current_exe().expect("own path");
        let code = super::super::parse(&text).flatten().filter(|mapping| mapping.permissions.execute);
        let wanted: Vec<_> = code
            .filter(|mapping| *mapping.name.display() == *exe || mapping.name.display().ends_with("libc.so.6"))
            .collect();
        assert_eq!(wanted.len(), 2);
        for mapping in wanted {
            check(&process, mapping);
        }
    }

    /// Without the right to use `map_files`, as after `munmap`.
    const NO_LINK: &str = "map_files/1-2";

    #[test]
    fn without_map_files_the_same_inode_is_found_by_exe_or_path() {
        with_own(|process, mapping| {
            let (_, stamp) =
                open_mapped(Some(process), &mapping, &mapping.name.display(), NO_LINK, false).expect("found");
            assert_eq!(stamp.inode, mapping.inode);
        });
    }

    #[test]
    fn the_file_of_a_process_that_has_ended_is_found_by_path_on_the_same_device_only() {
        with_own(|_, mapping| {
            let open = |mapping: &Mapping<'_>| open_mapped(None, mapping, &mapping.name.display(), NO_LINK, false);
            assert_eq!(open(&mapping).expect("found").1.inode, mapping.inode);
            let device = Device { major: mapping.device.major, minor: mapping.device.minor + 1 };
            assert!(open(&Mapping { device, ..mapping }).is_err());
        });
    }

    #[test]
    fn a_path_that_leads_to_another_inode_is_not_followed() {
        with_own(|process, mapping| {
            let gone = Mapping { inode: mapping.inode + 1, ..mapping };
            let error = open_mapped(Some(process), &gone, &gone.name.display(), NO_LINK, false).expect_err("gone");
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        });
    }
}
