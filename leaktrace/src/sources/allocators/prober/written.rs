//! Files that are written to after they were probed: their probes are gone by then (`holder/links.rs`), or must go.
//!
//! In: what the holder says, and objects found in place of others. Out: what is to be probed again, and a warning for the report.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Asked, Named, Planning, Prober, Progress, Request, each};
use crate::host::file_id::FileId;
use crate::kernel::Kernel;
use crate::kernel::attach::Scope;
use crate::process::maps::ObjectId;

/// How long after its probes were removed a file is looked at again: by then most writers are done.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How often an object is planned anew at once: a file that changes at each look would keep us busy.
const AT_ONCE: u32 = 3;

/// What is known of such files.
pub struct Written {
    results: async_channel::Sender<Progress>,
    /// What was probed in them, to be probed again where it is still there.
    requests: HashMap<FileId, Vec<Request>>,
    /// The same of files that the user named.
    named: HashMap<FileId, Vec<Named>>,
    /// Those that were asked to be probed again, until they are.
    asked: HashSet<FileId>,
    paths: BTreeSet<PathBuf>,
    /// Those that ever lost their probes.
    lost: HashSet<ObjectId>,
    /// How often objects were planned anew, as their files had changed meanwhile.
    planned_anew: HashMap<ObjectId, u32>,
}

impl Written {
    pub fn new(results: async_channel::Sender<Progress>) -> Self {
        Self {
            results,
            requests: HashMap::new(),
            named: HashMap::new(),
            asked: HashSet::new(),
            paths: BTreeSet::new(),
            lost: HashSet::new(),
            planned_anew: HashMap::new(),
        }
    }

    /// Whether an object whose file has changed since it was planned is to be planned anew at once, and not after a while.
    pub fn may_be_planned_anew(&mut self, object: ObjectId) -> bool {
        let times = self.planned_anew.entry(object).or_default();
        *times += 1;
        *times <= AT_ONCE
    }

    /// Has a file looked at again after a while.
    fn ask_again(&self, file: FileId) {
        let results = self.results.clone();
        let ask = move || {
            thread::sleep(AGAIN_AFTER);
            results.send_blocking(Progress::Again(file))
        };
        // Without a thread it is probed again when it is mapped again.
        let _ = thread::Builder::new().name("again".to_owned()).spawn(ask);
    }

    /// Whether it was asked to be probed again, and is not yet.
    pub fn is_asked(&self, file: FileId) -> bool {
        self.asked.contains(&file)
    }

    /// Whether any file that the user named has lost its probes and waits to be probed again.
    pub fn has_named(&self) -> bool {
        !self.named.is_empty()
    }

    /// Takes note of the path of a file that has lost its probes.
    fn note(&mut self, path: &Path) {
        if self.paths.insert(path.to_path_buf()) {
            // Whether it concerns the report shows only there.
            log::info!("{} is opened for writing and has no probes meanwhile", path.display());
        }
    }

    /// A file has its probes.
    pub fn probed(&mut self, file: FileId, path: &Path) {
        if self.asked.remove(&file) {
            log::info!("{}: probed again", path.display());
        }
    }

    /// Those of this scope need not be probed again.
    pub fn forget(&mut self, scope: Scope) {
        self.requests.values_mut().for_each(|requests| requests.retain(|request| request.scope != scope));
        self.named.values_mut().for_each(|named| named.retain(|named| named.scope != scope));
    }
}

impl Prober {
    /// Takes note of the files that lose their probes, as `files` names them; each step of it may block.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn heed_writers(&self, files: impl Iterator<Item = FileId> + Send + 'static) -> Result<()> {
        let results = self.written.results.clone();
        let tell = move || {
            for file in files {
                // An error means that the trace is over and nobody waits any more.
                if results.send_blocking(Progress::Lost(file)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("written".to_owned()).spawn(tell).context("cannot start a thread")?;
        Ok(())
    }

    /// The files that lost their probes since they were written to, or only opened for that.
    pub fn written(&self) -> impl Iterator<Item = &PathBuf> {
        self.written.paths.iter()
    }

    /// Whether an object lost its probes since its file was written to. It may have got them again.
    pub(super) fn has_lost(&self, object: ObjectId) -> bool {
        self.written.lost.contains(&object)
    }

    /// Takes note that the probes of a file are gone, or cannot be set while somebody writes to it.
    pub(super) fn lose(&mut self, file: FileId) {
        self.drop_probes(file);
        self.written.ask_again(file);
    }

    fn drop_probes(&mut self, file: FileId) {
        let beneath = self.probed.remove(file);
        self.drop_own_probes(file);
        // The file beneath has lost its probes under its other identities, too.
        for other in self.layered.borrowers(&beneath) {
            self.probed.remove(other);
            self.drop_own_probes(other);
            self.written.ask_again(other);
        }
    }

    fn drop_own_probes(&mut self, file: FileId) {
        self.layered.forget(file);
        if let Some(parked) = &mut self.parked {
            parked.forget_file(file);
        }
        self.files.retain(|(other, _), _| *other != file);
        // The holder has removed them; this drops what stands for them.
        drop(self.attachments.take_file(file));
        let lost = self.attached.extract_if(|_, asked| asked.file == Some(file));
        for ((_, scope), Asked { object, .. }) in lost {
            self.written.note(object.path());
            self.written.lost.insert(object.id());
            self.written.requests.entry(file).or_default().push(Request { object, scope, mapped_ns: 0 });
        }
        for named in self.named.extract_if(.., |named| named.file == file) {
            self.written.note(&named.path);
            self.written.named.entry(file).or_default().push(named);
        }
    }

    /// Probes what is still there of a file that has lost its probes.
    pub(super) fn attach_again(&mut self, kernel: &mut Kernel, file: FileId) -> Result<()> {
        let requests = self.written.requests.remove(&file).unwrap_or_default();
        let requested = each(requests, |request| {
            // What was written is found as another object when it is mapped.
            if request.object.name().is_err() {
                return Ok(());
            }
            self.written.asked.insert(file);
            // Its content may be another one of the same size and times.
            let id = request.object.id();
            if matches!(self.plans.get(&id), Some(Planning::Done(_))) {
                self.plans.remove(&id);
            }
            self.request(kernel, request)
        });
        let named = self.written.named.remove(&file).unwrap_or_default();
        let probed = each(named, |Named { path, scope, .. }| {
            self.written.asked.insert(file);
            self.probe_file(kernel, &path, scope)
        });
        each([requested, probed], |result| result)
    }

    /// Removes the probes of another object that had this file, in whose place there is a new one: written over where no lease
    /// was to be had.
    pub(super) fn replace(&mut self, file: FileId, by: ObjectId) {
        let is_other = |((id, _), asked): (&(ObjectId, Scope), &Asked)| *id != by && asked.file == Some(file);
        if self.attached.iter().any(is_other) {
            self.drop_probes(file);
            self.written.requests.remove(&file);
            self.named.extend(self.written.named.remove(&file).into_iter().flatten());
        }
    }
}
