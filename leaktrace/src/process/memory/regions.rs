//! Which mappings of a process can hold pointers to its heap.
//!
//! In: `/proc/PID/maps` and `/proc/PID/mountinfo`. Out: [`Region`]s. Never asks a file system about a file, which might not
//! answer: what a mapping is must follow from its name, its rights and its device.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::MemoryError;
use crate::model::{Address, Pid};
use crate::process::maps::{Device, Mapping, MappingName, Permissions, parse};

/// What a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RegionKind {
    /// A writable private mapping of a file: a program's or library's data. Only pages that were written are its own.
    Data,
    /// Private memory without a file: allocators' mappings, threads' stacks, zero-initialized data.
    Anonymous,
    /// What lies below the program break, `[heap]`.
    Heap,
    /// The stack of the first thread.
    Stack,
    /// Memory that other processes may share: `MAP_SHARED | MAP_ANONYMOUS`, memfd, System V, files of tmpfs as in `/dev/shm`.
    /// Of the page tables only pages that this process has used are known; of others see `Unseen`.
    Shared,
    /// A private mapping of a file that is read only now. It was written where the dynamic linker relocated it (relro).
    ReadOnly,
    /// Memory without the right to read it. What was written to it before can still be read through `/proc/PID/mem`.
    Inaccessible,
}

/// A mapping that can hold pointers to the heap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub start: Address,
    /// One past the last address.
    pub end: Address,
    /// What it is.
    pub kind: RegionKind,
    /// Access rights.
    pub permissions: Permissions,
    /// What is mapped.
    pub name: MappingName<'static>,
}

impl Region {
    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end.0 - self.start.0
    }

    /// The region that a mapping is, if it is one. `is_memory` says whether a device is a file system in memory.
    fn of(mapping: &Mapping<'_>, is_memory: impl Fn(Device) -> bool) -> Option<Self> {
        let kind = kind(mapping, is_memory)?;
        let Mapping { start, end, permissions, name, .. } = mapping.to_owned();
        Some(Self { start, end, kind, permissions, name })
    }
}

/// What a process has mapped, by address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mapped {
    /// What can hold pointers to the heap.
    pub(super) regions: Vec<Region>,
    /// Where code of files is.
    pub(super) code: Vec<Range<u64>>,
}

impl Mapped {
    /// That of `pid`.
    pub(super) fn of(pid: Pid) -> Result<Self, MemoryError> {
        let text = fs::read(format!("/proc/{pid}/maps")).map_err(|error| MemoryError::of(pid, "maps", error))?;
        // Without the list, files of tmpfs are not known as such, which few programs keep pointers in.
        let memory = fs::read(format!("/proc/{pid}/mountinfo")).map(|text| memory_devices(&text)).unwrap_or_default();
        let mut mapped = Self::default();
        for mapping in parse(&text).filter_map(Result::ok) {
            mapped.regions.extend(Region::of(&mapping, |device| memory.contains(&device)));
            if mapping.permissions.execute && mapping.name.is_file() {
                mapped.code.push(mapping.start.0..mapping.end.0);
            }
        }
        Ok(mapped)
    }
}

/// The regions of a process, by address.
///
/// # Errors
/// The list of mappings cannot be read.
pub fn regions(pid: Pid) -> Result<Vec<Region>, MemoryError> {
    Ok(Mapped::of(pid)?.regions)
}

fn kind(mapping: &Mapping<'_>, is_memory: impl Fn(Device) -> bool) -> Option<RegionKind> {
    let Permissions { read, write, execute, shared } = mapping.permissions;
    let kind = match &mapping.name {
        MappingName::Anonymous => RegionKind::Anonymous,
        MappingName::Memfd(_) if shared => RegionKind::Shared,
        MappingName::File { path, deleted } if shared => {
            let is_shared_memory = is_internal(path, *deleted) || (is_memory(mapping.device) && !is_device(path));
            return is_shared_memory.then_some(if read { RegionKind::Shared } else { RegionKind::Inaccessible });
        }
        MappingName::File { .. } | MappingName::Memfd(_) if write => RegionKind::Data,
        // Where code was written to (breakpoints, text relocations), it holds no pointer to the heap.
        MappingName::File { .. } | MappingName::Memfd(_) if execute => return None,
        MappingName::File { .. } | MappingName::Memfd(_) => RegionKind::ReadOnly,
        MappingName::Kernel(name) => of_kernel(name.as_bytes())?,
        MappingName::Vdso => return None,
    };
    Some(if read { kind } else { RegionKind::Inaccessible })
}

/// What the kernel calls memory of a process' own. Everything else that it names is the kernel's (`[vvar]`, `[uprobes]`,
/// `[vsyscall]`) or a device's (`anon_inode:…`).
fn of_kernel(name: &[u8]) -> Option<RegionKind> {
    match name {
        b"[heap]" => Some(RegionKind::Heap),
        b"[stack]" => Some(RegionKind::Stack),
        // Named by prctl(PR_SET_VMA_ANON_NAME).
        _ if name.starts_with(b"[anon:") => Some(RegionKind::Anonymous),
        _ if name.starts_with(b"[anon_shmem:") => Some(RegionKind::Shared),
        _ => None,
    }
}

/// Whether a file is of the kernel's own mounts of tmpfs and hugetlbfs, which no list shows: what `MAP_SHARED | MAP_ANONYMOUS`
/// maps, with huge pages, and what `shmget(2)` makes.
fn is_internal(path: &Path, deleted: bool) -> bool {
    let path = path.as_os_str().as_bytes();
    deleted && (path == b"/dev/zero" || path == b"/anon_hugepage" || path.starts_with(b"/SYSV"))
}

/// Whether a path may be that of a device file. In containers these lie on a tmpfs.
fn is_device(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

/// The devices of the file systems in memory among the mounts of `text`, as `proc_pid_mountinfo(5)` describes it:
/// `ID PARENT MAJOR:MINOR ROOT MOUNT-POINT OPTIONS [TAG…] - TYPE SOURCE OPTIONS`.
fn memory_devices(text: &[u8]) -> HashSet<Device> {
    let device = |line: &[u8]| {
        let line = OsStr::from_bytes(line).to_str()?;
        let (mount, file_system) = line.split_once(" - ")?;
        let is_memory = matches!(file_system.split(' ').next()?, "tmpfs" | "ramfs" | "hugetlbfs");
        let (major, minor) = mount.split(' ').nth(2)?.split_once(':')?;
        is_memory.then_some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
    };
    text.split(|byte| *byte == b'\n').filter_map(device).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its kind where device 0:1a is a tmpfs.
    fn of(line: &str) -> Option<RegionKind> {
        let mapping = parse(line.as_bytes()).next().unwrap().unwrap();
        kind(&mapping, |device| device == Device { major: 0, minor: 0x1a })
    }

    #[test]
    fn memory_of_a_process_is_told_by_what_it_is_for() {
        let is = |kind, line| assert_eq!(of(line), Some(kind), "{line}");
        is(RegionKind::Data, "7f00-8000 rw-p 00000000 fe:01 12 /usr/lib/libc.so.6");
        is(RegionKind::ReadOnly, "7f00-8000 r--p 00000000 fe:01 12 /usr/lib/libc.so.6");
        is(RegionKind::Anonymous, "7f00-8000 rw-p 00000000 00:00 0 ");
        is(RegionKind::Anonymous, "7f00-8000 rwxp 00000000 00:00 0 ");
        is(RegionKind::Anonymous, "7f00-8000 r--p 00000000 00:00 0 [anon:glibc: malloc]");
        is(RegionKind::Heap, "7f00-8000 rw-p 00000000 00:00 0 [heap]");
        is(RegionKind::Stack, "7f00-8000 rw-p 00000000 00:00 0 [stack]");
        is(RegionKind::Inaccessible, "7f00-8000 ---p 00000000 00:00 0 ");
        is(RegionKind::Inaccessible, "7f00-8000 ---s 00000000 00:01 5 /dev/zero (deleted)");
        is(RegionKind::Shared, "7f00-8000 rw-s 00000000 00:01 5 /dev/zero (deleted)");
        is(RegionKind::Shared, "7f00-8000 rw-s 00000000 00:01 5 /memfd:queue (deleted)");
        is(RegionKind::Shared, "7f00-8000 r--s 00000000 00:01 5 /SYSV00000000 (deleted)");
        is(RegionKind::Shared, "7f00-8000 rw-s 00000000 00:01 5 [anon_shmem:pool]");
        is(RegionKind::Shared, "7f00-8000 rw-s 00000000 00:1a 5 /dev/shm/sem.x");
        is(RegionKind::Shared, "7f00-8000 rw-s 00000000 00:1a 5 /run/user/0/ring (deleted)");
        is(RegionKind::Data, "7f00-8000 rw-p 00000000 00:01 5 /memfd:queue (deleted)");
    }

    #[test]
    fn files_devices_and_pages_of_the_kernel_are_left_out() {
        for line in [
            "7f00-8000 r-xp 00000000 fe:01 12 /usr/lib/libc.so.6",
            "7f00-8000 rw-s 00000000 fe:01 12 /var/lib/db",
            "7f00-8000 rw-s 00000000 00:05 12 /dev/nvidia0",
            // In a container.
            "7f00-8000 rw-s 00000000 00:1a 12 /dev/nvidia0",
            "7f00-8000 rw-s 00000000 00:0e 12 anon_inode:[io_uring]",
            "7f00-8000 rw-s 00000000 00:0e 12 anon_inode:[perf_event]",
            "7f00-8000 rw-s 00000000 00:0e 12 /[aio] (deleted)",
            "7f00-8000 rw-s 00000000 00:0e 12 /dmabuf: (deleted)",
            "7f00-8000 rw-s 00000000 00:09 12 socket:[12]",
            "7f00-8000 r-xp 00000000 00:00 0 [vdso]",
            "7f00-8000 r--p 00000000 00:00 0 [vvar]",
            "7f00-8000 r--p 00000000 00:00 0 [vvar_vclock]",
            "7f00-8000 --xp 00000000 00:00 0 [vsyscall]",
            "7f00-8000 --xp 00000000 00:00 0 [uprobes]",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn file_systems_in_memory_are_found_among_the_mounts() {
        let text = b"22 26 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
            23 26 0:26 / /dev/shm rw - tmpfs tmpfs rw\n\
            24 26 0:27 / /mnt/a\\040-\\040b rw shared:1 master:2 - hugetlbfs none rw\n\
            25 26 0:5 / /dev rw - devtmpfs dev rw\n\
            broken";
        let found = memory_devices(text);
        assert_eq!(found, HashSet::from([Device { major: 0, minor: 26 }, Device { major: 0, minor: 27 }]));
    }
}
