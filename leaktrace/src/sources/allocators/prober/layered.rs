//! Files of layered file systems that have their probes: one file beneath may have several identities, and an identity comes to stand
//! for another file when that is copied up, into the layer that can be written to.
//!
//! In: requests for files that have their probes, files that lose them. Out: requests for files that have been copied up, and what
//! else lost its probes with a file.
//!
//! overlayfs copies a file up at the first opening for writing, of which the holder learns, but also when only its mode, owner or
//! times change. Device, inode, size and time of last writing stay the same. Whoever has mapped the file goes on with that of
//! the lower layer, whoever maps it from then on has that of the upper one: so both keep their probes.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use anyhow::Result;

use super::super::layers::{Identity, Standing};
use super::{Place, Planned, Planning, Prober, Request};
use crate::host::clock::{monotonic_ns, realtime_ns};
use crate::host::file_id::{FileId, Version};
use crate::kernel::Kernel;
use crate::kernel::attach::Scope;

/// What is known of such files.
#[derive(Debug, Default)]
pub struct Layered {
    /// Files that are probed by way of another identity.
    borrowed: HashMap<FileId, Identity>,
    /// Probes from before a file was copied up: what was mapped between these times, by `CLOCK_MONOTONIC`, has them.
    earlier: HashMap<FileId, (u64, u64)>,
}

impl Layered {
    /// A file is probed by way of another identity.
    pub fn borrow(&mut self, file: FileId, identity: Option<Identity>) {
        self.borrowed.extend(identity.map(|identity| (file, identity)));
    }

    /// Takes out the files that may be probed by way of these identities, whose probes are gone.
    pub fn borrowers(&mut self, lost: &[Identity]) -> Vec<FileId> {
        let has_lost = |identity: &Identity| lost.iter().any(|lost| lost.may_be(identity));
        self.borrowed.extract_if(|_, identity| has_lost(identity)).map(|(file, _)| file).collect()
    }

    /// A file has lost its probes.
    pub fn forget(&mut self, file: FileId) {
        self.borrowed.remove(&file);
        self.earlier.remove(&file);
    }

    /// Whether what was mapped at this time has the probes from before the file was copied up.
    pub fn was_probed(&self, file: FileId, scope: Scope, mapped_ns: u64) -> bool {
        let within = |(from, until): &(u64, u64)| (*from..*until).contains(&mapped_ns);
        scope == Scope::AllProcesses && self.earlier.get(&file).is_some_and(within)
    }
}

impl Prober {
    /// A process has mapped a file whose probes were asked for already. Has it probed once more if it has been copied up since.
    pub(super) fn look_again(&mut self, kernel: &mut Kernel, request: &Request, planned: &Arc<Planned>) -> Result<()> {
        let Request { object, scope, .. } = request;
        if !planned.identity.is_some_and(|identity| identity.is_layered()) {
            return Ok(());
        }
        let (Ok(file), Some(inode)) = (object.name(), object.inode()) else { return Ok(()) };
        let Ok(found) = Version::of(&file) else { return Ok(()) };
        let key = (object.id(), *scope);
        let Some(asked) = self.attached.get_mut(&key).filter(|asked| asked.version != found) else { return Ok(()) };
        if *scope == Scope::AllProcesses {
            let standing = self.probed.look_up(planned.identity.as_ref(), &file, inode, planned.offsets());
            // It was in the upper layer already, or was changed in the lower one.
            if standing.is_ok_and(|standing| standing == Standing::Probed) {
                asked.version = found;
                return Ok(());
            }
        } else {
            // Probes of another process alone do not show in our mappings; what it has mapped anew is in place of the old.
            self.files.remove(&(inode, *scope));
            drop(self.attachments.take_file_in(inode, *scope));
        }
        log::info!("{} has changed, and its file system has layers: it is probed once more", object.path().display());
        self.attached.remove(&key);
        if planned.content.version != found && !matches!(self.plans.get(&object.id()), Some(Planning::Pending(_))) {
            self.plans.remove(&object.id());
        }
        self.request(kernel, request.clone())
    }

    /// Before a file is probed once more: keeps in mind who has its present probes.
    pub(super) fn keep_earlier(&mut self, file: FileId, named: &File) {
        if let Some(Place::Since(since_ns)) = self.files.get(&(file, Scope::AllProcesses)) {
            let until_ns = changed_ns(named).unwrap_or(*since_ns);
            self.layered.earlier.entry(file).or_insert((*since_ns, until_ns));
        }
    }
}

/// When a file last changed in any way, or was copied, by `CLOCK_MONOTONIC`; a tick of files' times earlier at most, never later.
fn changed_ns(file: &File) -> Option<u64> {
    let metadata = file.metadata().ok()?;
    let seconds = u64::try_from(metadata.ctime()).ok()?;
    let changed = seconds.checked_mul(1_000_000_000)?.checked_add(metadata.ctime_nsec().try_into().ok()?)?;
    let ago = realtime_ns().ok()?.saturating_sub(changed);
    Some(monotonic_ns().ok()?.saturating_sub(ago))
}
