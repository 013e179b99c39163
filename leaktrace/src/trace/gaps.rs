//! What of a report has no names or lines because debug information is missing, and where that can be had.
//!
//! In: a snapshot with its names, and the address spaces that these came from. Out: one note, or none where little is missing.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::capture::Spaces;
use crate::host::patience::{self, About};
use crate::model::{Frame, Snapshot};
use crate::packages::{self, Advice, Wanting};
use crate::process::maps::{Object, ObjectId};
use crate::symbolize::debuginfod::hex;
use crate::symbolize::{CodeAddress, Coverage, Symbolizer, object_at};

/// Less of the outstanding bytes, in percent, is not worth a note.
const NOTICEABLE: u64 = 5;
/// Files named in the note.
const NAMED: usize = 3;
/// Time for package managers, before twice the time that the report has taken so far is subtracted: the report is to be there
/// within two seconds of the trace's end.
const AT_MOST: Duration = Duration::from_millis(1500);
/// What they are given at least: as long as the first of them takes to say which packages files are of.
const AT_LEAST: Duration = Duration::from_millis(300);

/// What can be done to fetch what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetching {
    /// It was done.
    Done,
    /// Servers are named; it was not asked for.
    Possible,
    /// No server is named.
    Unknown,
}

/// Files that lack debug information, and how much stands under it.
pub struct Gaps {
    /// Outstanding bytes under stacks that lack names of functions or, where a file has exported names alone, all lines.
    bytes: u64,
    all: u64,
    /// Those with most bytes first.
    files: Vec<(Arc<Object>, u64)>,
}

/// The life and the outstanding bytes of a site, with its stack.
struct Stack<'a> {
    frames: &'a [Arc<Frame>],
    life: u32,
    bytes: u64,
    /// Those that no suppression hides.
    shown: u64,
}

/// Files without debug information that outstanding stacks go through, those with most bytes first: what is worth fetching.
pub fn worth_fetching(
    snapshot: &Snapshot,
    lives: &[u32],
    spaces: &Spaces,
    symbolizer: &Symbolizer,
) -> Vec<Arc<Object>> {
    let mut files = Files::default();
    for stack in stacks(snapshot, lives) {
        let objects = stack.frames.iter().filter_map(|frame| object_of(frame, stack.life, spaces));
        let lacking = |object: &Object| symbolizer.coverage(object).is_some_and(|coverage| !coverage.debug_info);
        files.add(objects.filter(|object| object.build_id().is_some() && lacking(object)), stack.bytes);
    }
    files.largest_first().into_iter().map(|(object, _)| object).collect()
}

/// What is missing.
pub fn find(snapshot: &Snapshot, lives: &[u32], spaces: &Spaces, symbolizer: &Symbolizer) -> Gaps {
    let (mut files, mut bytes, mut all) = (Files::default(), 0u64, 0u64);
    for stack in stacks(snapshot, lives) {
        all = all.saturating_add(stack.bytes);
        // Nobody looks for names where a report shows none.
        if stack.shown == 0 {
            continue;
        }
        let frames: Vec<(&Frame, &Arc<Object>, Coverage)> = stack
            .frames
            .iter()
            .filter_map(|frame| {
                let object = object_of(frame, stack.life, spaces)?;
                Some((&**frame, object, symbolizer.coverage(object)?))
            })
            .collect();
        let frames = &frames[..without_beginning(&frames, |(_, object, _)| is_c_library(object.path()))];
        let has_lines = stack.frames.iter().any(|frame| frame.line.is_some());
        let lacking = frames.iter().filter(|(frame, object, coverage)| {
            let nameless = frame.function.is_none();
            // Functions that are exported have names everywhere; their lines matter where nothing else leads to the source.
            let lineless = !has_lines && !coverage.symbols && !is_runtime(object.path());
            !coverage.debug_info && object.inode().is_some() && (nameless || lineless)
        });
        if files.add(lacking.map(|(_, object, _)| *object), stack.shown) {
            bytes = bytes.saturating_add(stack.shown);
        }
    }
    Gaps { bytes, all, files: files.largest_first() }
}

/// How many of a stack's frames, innermost first, are the program's: those before the C library's that call `main` or a
/// thread's function, which are the same in every stack.
fn without_beginning<T>(frames: &[T], is_c_library: impl Fn(&T) -> bool) -> usize {
    let mut end = frames.len();
    // `_start`, which calls the C library.
    if end >= 2 && !is_c_library(&frames[end - 1]) && is_c_library(&frames[end - 2]) {
        end -= 1;
    }
    while end > 0 && is_c_library(&frames[end - 1]) {
        end -= 1;
    }
    end
}

fn is_c_library(path: &Path) -> bool {
    let names = ["libc.so", "libc-2.", "libpthread", "ld-linux", "ld-musl", "libc.musl", "ld-2."];
    path.file_name().is_some_and(|name| names.iter().any(|start| name.to_string_lossy().starts_with(start)))
}

/// Libraries of the languages: what they export is known to everybody.
fn is_runtime(path: &Path) -> bool {
    is_c_library(path) || path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libstdc++"))
}

fn stacks<'a>(snapshot: &'a Snapshot, lives: &'a [u32]) -> impl Iterator<Item = Stack<'a>> {
    snapshot.sites.iter().filter(|site| site.outstanding_bytes > 0).filter_map(|site| {
        Some(Stack {
            frames: &site.stack,
            life: *lives.get(site.process?)?,
            bytes: site.outstanding_bytes,
            shown: site.shown().bytes,
        })
    })
}

fn object_of<'a>(frame: &Frame, life: u32, spaces: &'a Spaces) -> Option<&'a Arc<Object>> {
    object_at(spaces.get(life)?, CodeAddress::returning(frame.address))
}

/// Objects with the bytes of the stacks that go through them.
#[derive(Default)]
struct Files(HashMap<ObjectId, (Arc<Object>, u64)>);

impl Files {
    /// Counts a stack under each of these objects once; whether there was one.
    fn add<'a>(&mut self, objects: impl Iterator<Item = &'a Arc<Object>>, bytes: u64) -> bool {
        let objects: HashMap<ObjectId, &Arc<Object>> = objects.map(|object| (object.id(), object)).collect();
        for (id, object) in &objects {
            let sum = &mut self.0.entry(*id).or_insert_with(|| (Arc::clone(object), 0)).1;
            *sum = sum.saturating_add(bytes);
        }
        !objects.is_empty()
    }

    fn largest_first(self) -> Vec<(Arc<Object>, u64)> {
        let mut files: Vec<_> = self.0.into_values().collect();
        files.sort_unstable_by_key(|(object, bytes)| (std::cmp::Reverse(*bytes), object.id()));
        files
    }
}

impl Gaps {
    /// What to say, after a look at what the package managers know, for which the end of the trace so long ago leaves some time;
    /// `None` where too little is missing.
    pub fn note(&self, fetching: Fetching, since_end: Duration) -> Option<String> {
        // A hundredth of it times a hundred does not overflow.
        if self.files.is_empty() || u128::from(self.bytes) * 100 < u128::from(self.all) * u128::from(NOTICEABLE) {
            return None;
        }
        let named: Vec<&Object> = self.files.iter().take(NAMED).map(|(object, _)| &**object).collect();
        let id = |object: &Object| object.build_id().map(hex);
        let here: Vec<Wanting> = named
            .iter()
            .filter(|object| is_here(object))
            .map(|object| Wanting { path: object.path().to_path_buf(), build_id: id(object) })
            .collect();
        let mut advice = packages::advise(&here, AT_MOST.saturating_sub(2 * since_end).max(AT_LEAST)).into_iter();
        let advice = named.iter().map(|object| if is_here(object) { advice.next() } else { None });
        let files: Vec<String> = named
            .iter()
            .zip(advice)
            .map(|(object, advice)| file(object.path(), id(object), &advice.unwrap_or(Advice::Nothing)))
            .collect();
        Some(sentence((self.bytes, self.all), &files, self.files.len() - files.len(), fetching))
    }
}

/// Whether a file is the one that this machine has at its path, and not one of a container's.
fn is_here(object: &Object) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (None, Some((device, inode))) = (object.root(), object.inode()) else { return false };
    let path = object.path().to_path_buf();
    let here = patience::answer(About::file_system(device, inode), move || std::fs::metadata(path));
    here.is_ok_and(|status| (status.dev(), status.ino()) == (device, inode))
}

fn file(path: &Path, id: Option<String>, advice: &Advice) -> String {
    let id = id.map_or_else(|| "no build id".to_owned(), |id| format!("build id {id}"));
    let what = match advice {
        Advice::Install(command) => format!("{command}; {id}"),
        Advice::Elsewhere(package) => {
            format!("{id}; of package {package}: add the distribution's debug archive for {package}-dbgsym")
        }
        Advice::OfPackage(package) => format!("{id}; of package {package}: look for {package}-dbgsym"),
        Advice::Nothing => id,
    };
    format!("{} ({what})", path.display())
}

fn sentence((bytes, all): (u64, u64), files: &[String], more: usize, fetching: Fetching) -> String {
    // Cut, not rounded: 100 % is only what is.
    let permille = u128::from(bytes) * 1000 / u128::from(all.max(1));
    let more = match more {
        0 => String::new(),
        1 => ", and of one more file".to_owned(),
        more => format!(", and of {more} more files"),
    };
    let next = match fetching {
        Fetching::Done => "--debuginfod did not bring it",
        Fetching::Possible => "--debuginfod fetches it from the servers in DEBUGINFOD_URLS",
        Fetching::Unknown => "with DEBUGINFOD_URLS set to a server that has it, --debuginfod fetches it",
    };
    format!(
        "the stacks of {}.{}% of the outstanding bytes pass through stripped files and lack function names, or all source lines, for \
         want of debug information of {}{more}; {next}",
        permille / 10,
        permille % 10,
        files.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_before_main_are_nobodys_gap() {
        // 'p' is the program's, 'c' the C library's; innermost first.
        let own = |stack: &str| {
            let frames: Vec<char> = stack.chars().collect();
            without_beginning(&frames, |frame| *frame == 'c')
        };
        assert_eq!(own("ppccp"), 2, "main, the C library, _start");
        assert_eq!(own("ppcc"), 2, "a thread");
        assert_eq!(own("cppccp"), 3, "strdup of the C library is the program's doing");
        assert_eq!(own("pp"), 2, "cut short");
        assert_eq!((own("c"), own("")), (0, 0));
    }

    #[test]
    fn the_c_library_is_known_by_its_names() {
        let is = |name: &str| is_c_library(Path::new("/lib").join(name).as_path());
        assert!(is("libc.so.6") && is("libc-2.31.so") && is("ld-musl-x86_64.so.1") && is("libpthread-2.31.so"));
        assert!(!is("libcurl.so.4") && !is("libcrypto.so.3") && !is("ld"));
        assert!(is_runtime(Path::new("/usr/lib/libstdc++.so.6")) && !is_runtime(Path::new("/usr/lib/libssl.so.3")));
    }

    #[test]
    fn the_note_says_what_is_missing_and_what_would_help() {
        let install = Advice::Install("apt install redis-server-dbgsym".to_owned());
        let files = [
            file(Path::new("/usr/bin/redis-server"), Some("ab12".to_owned()), &install),
            file(Path::new("/usr/lib/x.so"), Some("cd".to_owned()), &Advice::Elsewhere("libx1".to_owned())),
            file(Path::new("/opt/y"), None, &Advice::Nothing),
        ];
        assert_eq!(
            sentence((2999, 3000), &files, 2, Fetching::Possible),
            "the stacks of 99.9% of the outstanding bytes pass through stripped files and lack function names, or all source \
             lines, for want of debug information of /usr/bin/redis-server (apt install redis-server-dbgsym; build id ab12), /usr/lib/x.so (build id cd; of package \
             libx1: add the distribution's debug archive for libx1-dbgsym), /opt/y (no build id), and of 2 more files; \
             --debuginfod fetches it from the servers in DEBUGINFOD_URLS"
        );
        assert!(
            sentence((1, 1), &files[2..], 0, Fetching::Done)
                .ends_with("/opt/y (no build id); --debuginfod did not bring it")
        );
    }

    #[test]
    fn little_is_not_worth_a_note() {
        let gaps = Gaps { bytes: 0, all: 0, files: Vec::new() };
        assert_eq!(gaps.note(Fetching::Unknown, Duration::ZERO), None);
    }
}
