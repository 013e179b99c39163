//! How much memory there is to be had: of the machine, and of the control groups that a process is in.
//!
//! Tables of BPF programs are charged to the control group of who makes them. In a container with a limit of its own the machine's
//! memory says nothing.

use std::fs;
use std::path::{Path, PathBuf};

use procfs::ProcessCGroup;
use procfs::process::{MountInfo, Process};

/// Bytes that can be had without anybody else's being swapped out; `None` where the kernel does not tell.
pub fn available() -> Option<u64> {
    room_of(Process::myself().ok())
}

/// The same for another process, as far as the control groups that we see limit it.
pub fn available_to(pid: u32) -> Option<u64> {
    room_of(Process::new(pid as i32).ok())
}

fn room_of(process: Option<Process>) -> Option<u64> {
    let machine = parse(&fs::read_to_string("/proc/meminfo").ok()?)?;
    Some(groups(process).iter().flat_map(Group::levels).filter_map(|level| level.room()).fold(machine, u64::min))
}

/// The line `MemAvailable` of `proc_meminfo(5)`, in bytes.
fn parse(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The control groups whose limits on memory hold for a process, where our own mounts show them.
fn groups(process: Option<Process>) -> Vec<Group> {
    let (Some(process), Ok(ourselves)) = (process, Process::myself()) else { return Vec::new() };
    let (Ok(mounts), Ok(groups)) = (ourselves.mountinfo(), process.cgroups()) else { return Vec::new() };
    mounts.into_iter().filter_map(|mount| groups.0.iter().find_map(|group| Group::at(&mount, group))).collect()
}

/// A control group, as a mounted hierarchy shows it.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    mounted_at: PathBuf,
    directory: PathBuf,
    names: &'static Names,
}

/// How the files of a version of control groups are called.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    limit: &'static str,
    used: &'static str,
    /// The field of `memory.stat` for pages of files that can be dropped at any time.
    cached: &'static str,
}

const SECOND: Names = Names { limit: "memory.max", used: "memory.current", cached: "inactive_file" };
const FIRST: Names =
    Names { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", cached: "total_inactive_file" };

impl Group {
    /// `group`, if `mount` shows its hierarchy and that limits memory.
    fn at(mount: &MountInfo, group: &ProcessCGroup) -> Option<Self> {
        let names = match mount.fs_type.as_str() {
            "cgroup2" if group.hierarchy == 0 => &SECOND,
            "cgroup" if mount.super_options.contains_key("memory") && has_memory(group) => &FIRST,
            _ => return None,
        };
        // Where only a part of the hierarchy is mounted and we are outside of it, the mount shows nothing of us.
        let below = Path::new(&group.pathname).strip_prefix(&mount.root).ok()?;
        Some(Self { mounted_at: mount.mount_point.clone(), directory: mount.mount_point.join(below), names })
    }

    /// The group and those above it, whose limits hold as well.
    fn levels(&self) -> impl Iterator<Item = Level<'_>> {
        let within = self.directory.ancestors().take_while(|directory| directory.starts_with(&self.mounted_at));
        within.map(|directory| Level { directory, names: self.names })
    }
}

fn has_memory(group: &ProcessCGroup) -> bool {
    group.controllers.iter().any(|controller| controller == "memory")
}

/// A group of a hierarchy.
struct Level<'a> {
    directory: &'a Path,
    names: &'static Names,
}

impl Level<'_> {
    /// Bytes up to its limit; `None` without one.
    fn room(&self) -> Option<u64> {
        let read = |name| fs::read_to_string(self.directory.join(name)).ok();
        let number = |name| read(name)?.trim().parse::<u64>().ok();
        let (limit, used) = (number(self.names.limit)?, number(self.names.used)?);
        let cached = read("memory.stat").and_then(|text| field(&text, self.names.cached)).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(cached)))
    }
}

/// A line of `memory.stat`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use procfs::process::MountInfos;
    use procfs::{FromRead as _, ProcessCGroups};

    use super::*;

    fn found(mounts: &str, groups: &str) -> Vec<(PathBuf, &'static str)> {
        let mounts = MountInfos::from_read(mounts.as_bytes()).unwrap();
        let groups = ProcessCGroups::from_read(groups.as_bytes()).unwrap();
        let found = mounts.0.iter().filter_map(|mount| groups.0.iter().find_map(|group| Group::at(mount, group)));
        found.map(|group| (group.directory, group.names.limit)).collect()
    }

    #[test]
    fn the_groups_of_both_versions_are_found_where_they_are_mounted() {
        let second = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            found(second, "0::/user.slice/a.scope\n"),
            [(PathBuf::from("/sys/fs/cgroup/user.slice/a.scope"), "memory.max")]
        );
        // A container that sees its own part only.
        let part = "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(found(part, "0::/docker/abc/x\n"), [(PathBuf::from("/sys/fs/cgroup/x"), "memory.max")]);
        assert_eq!(found(part, "0::/elsewhere\n"), []);
        let first = "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                     32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        assert_eq!(
            found(first, "5:memory:/a\n3:cpu:/b\n0::/\n"),
            [(PathBuf::from("/sys/fs/cgroup/memory/a"), "memory.limit_in_bytes")]
        );
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let top = std::env::temp_dir().join(format!("leaktrace-memory-{}", std::process::id()));
        let write = |at: &str, files: &[(&str, &str)]| {
            let directory = top.join(at);
            fs::create_dir_all(&directory).unwrap();
            for (name, content) in files {
                fs::write(directory.join(name), content).unwrap();
            }
        };
        write("pod/app", &[("memory.max", "max\n"), ("memory.current", "4096\n")]);
        write(
            "pod",
            &[
                ("memory.max", "1000000\n"),
                ("memory.current", "700000\n"),
                ("memory.stat", "file 9\ninactive_file 500000\ninactive_file_other 7\n"),
            ],
        );
        let group = Group { mounted_at: top.clone(), directory: top.join("pod/app"), names: &SECOND };
        let rooms: Vec<_> = group.levels().map(|level| level.room()).collect();
        fs::remove_dir_all(&top).unwrap();
        assert_eq!(rooms, [None, Some(800_000), None]);
    }

    #[test]
    fn available_memory_is_read_as_the_kernel_writes_it() {
        let meminfo = "MemTotal:       24683520 kB\nMemFree:         5361664 kB\nMemAvailable:   21837824 kB\n";
        assert_eq!(parse(meminfo), Some(21_837_824 * 1024));
        assert_eq!(parse("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn this_machine_tells() {
        let available = available().expect("a number");
        assert!(available > 1 << 20, "{available}");
    }
}
