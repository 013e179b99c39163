//! Processes that draw samples of their own allocations and tell of them: which do.
//!
//! In: processes. Out: whether something that they map has places that tell of samples. Their probes are planned and set as those of
//! allocation functions are (`allocators`).

mod books;

use std::collections::HashSet;
use std::fs::File;

use procfs::process::{MMPermissions, MemoryMap, Process};

use crate::elf::{Elf, Opened};
use crate::host::patience::{self, About};
use crate::model::Pid;
use crate::probes::plan;
pub use books::Books;

/// Whether all of these processes, of which there is one at least, draw samples.
#[must_use]
pub fn are_drawn_by_all(pids: &[Pid]) -> bool {
    !pids.is_empty() && pids.iter().all(|pid| draws(*pid))
}

/// Whether something that a process maps has places that tell of samples. No file is looked at whose file system asks another process
/// or machine, which may not answer; who they are no file system is asked.
fn draws(pid: Pid) -> bool {
    let Ok(process) = Process::new(pid.0 as i32) else { return false };
    // Why it cannot be read is said when it is to be traced.
    let Ok(maps) = process.maps() else { return false };
    let devices = Devices::of(&process);
    let is_code = |map: &&MemoryMap| map.perms.contains(MMPermissions::EXECUTE) && map.inode != 0;
    let code = maps.iter().filter(is_code).filter(|map| devices.asks_nobody(map.dev));
    let mut seen = HashSet::new();
    let mut files = code.filter(|map| seen.insert((map.dev, map.inode)));
    files.any(|map| {
        has_places(format!("/proc/{pid}/map_files/{:x}-{:x}", map.address.0, map.address.1), map.dev, map.inode)
    })
}

/// The devices of the file systems that a process sees, by major and minor number.
#[derive(Default)]
struct Devices {
    /// Of file systems that ask nobody.
    own: HashSet<(i32, i32)>,
    /// Of those that ask another process or machine.
    served: HashSet<(i32, i32)>,
}

impl Devices {
    fn of(process: &Process) -> Self {
        /// How the names of served file systems begin.
        const SERVED: [&str; 9] = ["fuse", "nfs", "9p", "ceph", "cifs", "smb", "afs", "coda", "autofs"];
        let mut devices = Self::default();
        for mount in process.mountinfo().into_iter().flatten() {
            let Some((major, minor)) = mount.majmin.split_once(':') else { continue };
            let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
            let is_served = SERVED.iter().any(|served| mount.fs_type.starts_with(served));
            let kind = if is_served { &mut devices.served } else { &mut devices.own };
            kind.insert((major, minor));
        }
        devices
    }

    /// Whether a file there can be opened without waiting for anybody. Of what the process does not see itself, as below an overlay,
    /// that holds of block devices.
    fn asks_nobody(&self, device: (i32, i32)) -> bool {
        self.own.contains(&device) || device.0 != 0 && !self.served.contains(&device)
    }
}

fn has_places(path: String, (major, minor): (i32, i32), inode: u64) -> bool {
    let look = move || {
        let file = File::open(path)?;
        let opened = Opened::new(&file);
        let sections = Elf::read(Opened::new(&file)).and_then(|elf| elf.sections()).unwrap_or_default();
        Ok(plan::has_sample_points(&opened, &sections))
    };
    let device = libc::makedev(major as u32, minor as u32);
    patience::answer(About::file_system(device, inode), look).unwrap_or(false)
}
