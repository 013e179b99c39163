//! Which processes the BPF programs trace, as maps and globals that they read.
//!
//! In: the configuration. Out: a [`Selection`], checked against this machine before anything is attached.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use leaktrace_common::abi::{FILTER_CGROUP, FILTER_COMM, FILTER_UID, MAX_FILTERS};

use crate::config::{Config, Filters, Whom};
use crate::model::Pid;

/// `CGROUP2_SUPER_MAGIC` of uapi/linux/magic.h.
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// Length of a process' name in the kernel (`TASK_COMM_LEN`), the NUL included.
const COMM_BYTES: usize = 16;

/// Whom the programs trace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Whether only followed processes and their descendants are traced.
    pub following: bool,
    comms: Vec<[u8; COMM_BYTES]>,
    uids: Vec<u32>,
    cgroups: Vec<u64>,
}

impl Selection {
    /// What the configuration asks for.
    ///
    /// # Errors
    /// A control group that is not there.
    pub fn new(config: &Config) -> Result<Self> {
        match &config.whom {
            Whom::Pids(_) | Whom::Command(_) => Ok(Self { following: config.follow, ..Self::default() }),
            Whom::System => Ok(Self::default()),
            Whom::Filtered(Filters { comms, cgroups, uids }) => {
                let most = comms.len().max(cgroups.len()).max(uids.len());
                if most > MAX_FILTERS as usize {
                    bail!("{most} names, control groups or users are more than the {MAX_FILTERS} there is room for");
                }
                Ok(Self {
                    following: false,
                    comms: comms.iter().map(|name| padded(name)).collect(),
                    uids: uids.clone(),
                    cgroups: cgroups.iter().map(|path| cgroup_id(path)).collect::<Result<_>>()?,
                })
            }
        }
    }

    /// The filters there are, as `FILTER_` bits.
    pub fn filters(&self) -> u32 {
        [
            (FILTER_COMM, self.comms.is_empty()),
            (FILTER_UID, self.uids.is_empty()),
            (FILTER_CGROUP, self.cgroups.is_empty()),
        ]
        .into_iter()
        .filter(|(_, empty)| !empty)
        .fold(0, |bits, (bit, _)| bits | bit)
    }

    /// Fills the maps of the filters.
    pub fn fill(&self, ebpf: &mut Ebpf) -> Result<()> {
        fill(ebpf, "COMMS", &self.comms)?;
        fill(ebpf, "UIDS", &self.uids)?;
        fill(ebpf, "CGROUPS", &self.cgroups)
    }
}

fn fill<K: aya::Pod>(ebpf: &mut Ebpf, name: &str, keys: &[K]) -> Result<()> {
    let map = ebpf.map_mut(name).with_context(|| format!("the BPF object has no map {name}"))?;
    let mut map = HashMap::<&mut MapData, K, u8>::try_from(map)?;
    keys.iter().try_for_each(|key| map.insert(key, 0, 0)).with_context(|| format!("cannot fill the BPF map {name}"))
}

/// Has a process traced, and its later descendants.
pub fn follow(ebpf: &mut Ebpf, pid: Pid) -> Result<()> {
    fill(ebpf, "FOLLOWED", &[pid.0])
}

fn padded(name: &str) -> [u8; COMM_BYTES] {
    let mut padded = [0; COMM_BYTES];
    for (to, from) in padded.iter_mut().take(COMM_BYTES - 1).zip(name.bytes()) {
        *to = from;
    }
    padded
}

/// The number that the kernel gives a control group: the inode of its directory (`kernfs_node_id`).
fn cgroup_id(path: &Path) -> Result<u64> {
    let directory = cgroup_directory(path)?;
    let is_cgroup2 = nix::sys::statfs::statfs(&directory).is_ok_and(|fs| fs.filesystem_type().0 == CGROUP2_MAGIC);
    if !is_cgroup2 {
        bail!("--cgroup {} is not in the control group file system, version 2; see mount -t cgroup2", path.display());
    }
    let status =
        fs::metadata(&directory).with_context(|| format!("cannot look at --cgroup {}", directory.display()))?;
    Ok(status.ino())
}

/// The processes in a control group and in those below it; of very many groups not all.
pub fn members(path: &Path) -> Vec<Pid> {
    const MAX_GROUPS: usize = 4096;
    let mut members = Vec::new();
    let mut groups: Vec<PathBuf> = cgroup_directory(path).into_iter().collect();
    let mut read = 0;
    while let Some(group) = groups.pop().filter(|_| read < MAX_GROUPS) {
        read += 1;
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        members.extend(processes.lines().filter_map(|line| line.parse().ok()).map(Pid));
        let below = fs::read_dir(group).into_iter().flatten().flatten();
        groups.extend(below.filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir())).map(|entry| entry.path()));
    }
    members
}

/// The control group's directory: the path as given, or relative to where cgroup2 is mounted, as `/proc/PID/cgroup` shows it.
fn cgroup_directory(path: &Path) -> Result<PathBuf> {
    let mounts = procfs::mounts().unwrap_or_default();
    let mounted =
        mounts.into_iter().filter(|mount| mount.fs_vfstype == "cgroup2").map(|mount| PathBuf::from(mount.fs_file));
    let below = path.strip_prefix("/").unwrap_or(path);
    std::iter::once(path.to_path_buf())
        .chain(mounted.map(|mount| mount.join(below)))
        .find(|directory| directory.is_dir())
        .with_context(|| format!("there is no control group --cgroup {}; systemd-cgls lists them", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_and_padded_as_the_kernel_does_it() {
        assert_eq!(&padded("nginx"), b"nginx\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&padded("a-name-beyond-fifteen"), b"a-name-beyond-f\0");
    }

    #[test]
    fn a_directory_elsewhere_is_no_control_group() {
        let error = cgroup_id(Path::new("/tmp")).unwrap_err().to_string();
        assert!(error.contains("--cgroup /tmp") && error.contains("version 2"), "{error}");
        let error = cgroup_id(Path::new("/no/such/group")).unwrap_err().to_string();
        assert!(error.contains("there is no control group --cgroup /no/such/group"), "{error}");
    }

    #[test]
    fn each_kind_of_filter_has_a_bit() {
        assert_eq!(Selection::default().filters(), 0);
        let selection = Selection { uids: vec![0], cgroups: vec![1], ..Selection::default() };
        assert_eq!(selection.filters(), FILTER_UID | FILTER_CGROUP);
    }
}
