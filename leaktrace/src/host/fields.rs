//! Where structures of the running kernel have the fields that the programs read, by its own type information.
//!
//! In: BTF. Out: the globals that the programs are loaded with; 0 where the kernel does not tell.

use anyhow::{Context, Result, bail};

use super::btf::{self, Btf, BtfError};
use super::features;

/// Offsets in bytes; 0 where the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fields {
    /// `task_struct.tgid`
    task_tgid: u32,
    /// `task_struct.comm`
    task_comm: u32,
    /// `task_struct.group_leader`
    task_group_leader: u32,
    /// `task_struct.signal`
    task_signal: u32,
    /// `signal_struct.live`
    signal_live: u32,
    /// `task_struct.thread`, and in it the base of the thread's local storage.
    thread_base: u32,
    /// The same for the base of gs.
    thread_gs_base: u32,
    mappings: Mappings,
}

/// Fields by which the BPF programs find what is mapped at an address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Mappings {
    /// 1 where all of them are known and the kernel can be asked.
    known: u32,
    vma_start: u32,
    vma_pgoff: u32,
    vma_flags: u32,
    vma_file: u32,
    file_inode: u32,
    inode_number: u32,
    inode_super: u32,
    inode_modified: u32,
    super_device: u32,
}

impl Fields {
    /// The fields of the running kernel. With `following` children are traced, for which `task_struct.tgid` is needed.
    ///
    /// # Errors
    /// The kernel does not tell what is needed.
    pub fn needed(following: bool) -> Result<Self> {
        match Self::read() {
            Ok(fields) if following && fields.task_tgid == 0 => {
                bail!("the kernel does not tell where a task has its pid; trace without its children: --no-follow")
            }
            Ok(fields) => Ok(fields),
            Err(error) if following => {
                Err(error).context("children cannot be followed; trace without them: --no-follow")
            }
            Err(error) => {
                log::debug!("{error}");
                Ok(Self::default())
            }
        }
    }

    fn read() -> Result<Self, BtfError> {
        let bytes = btf::read()?;
        let btf = Btf::parse(&bytes)?;
        let field = |structure, name| btf.offset(structure, name).unwrap_or(0);
        let of_thread = |name| match (field("task_struct", "thread"), field("thread_struct", name)) {
            (0, _) | (_, 0) => 0,
            (thread, within) => thread + within,
        };
        Ok(Self {
            task_tgid: field("task_struct", "tgid"),
            task_comm: field("task_struct", "comm"),
            task_group_leader: field("task_struct", "group_leader"),
            task_signal: field("task_struct", "signal"),
            signal_live: field("signal_struct", "live"),
            thread_base: of_thread("fsbase"),
            thread_gs_base: of_thread("gsbase"),
            mappings: Mappings::read(&btf).filter(|_| features::finds_mappings()).unwrap_or_default(),
        })
    }

    /// The globals of the BPF object and their values.
    pub fn globals(&self) -> [(&'static str, &u32); 17] {
        let Self {
            task_tgid,
            task_comm,
            task_group_leader,
            task_signal,
            signal_live,
            thread_base,
            thread_gs_base,
            mappings,
        } = self;
        [
            ("TASK_TGID", task_tgid),
            ("TASK_COMM", task_comm),
            ("TASK_GROUP_LEADER", task_group_leader),
            ("TASK_SIGNAL", task_signal),
            ("SIGNAL_LIVE", signal_live),
            ("THREAD_BASE", thread_base),
            ("THREAD_GS_BASE", thread_gs_base),
            ("KNOWS_VMA", &mappings.known),
            ("VMA_START", &mappings.vma_start),
            ("VMA_PGOFF", &mappings.vma_pgoff),
            ("VMA_FLAGS", &mappings.vma_flags),
            ("VMA_FILE", &mappings.vma_file),
            ("FILE_INODE", &mappings.file_inode),
            ("INODE_NUMBER", &mappings.inode_number),
            ("INODE_SUPER", &mappings.inode_super),
            ("INODE_MODIFIED", &mappings.inode_modified),
            ("SUPER_DEVICE", &mappings.super_device),
        ]
    }
}

impl Mappings {
    /// All or none: `vm_start` is at offset 0, which cannot stand for "unknown" here.
    fn read(btf: &Btf<'_>) -> Option<Self> {
        // The time of the last change, whose first eight bytes are the seconds: from 6.11, from 6.7, and before.
        let modified = ["i_mtime_sec", "__i_mtime", "i_mtime"];
        Some(Self {
            known: 1,
            vma_start: btf.offset("vm_area_struct", "vm_start")?,
            vma_pgoff: btf.offset("vm_area_struct", "vm_pgoff")?,
            vma_flags: btf.offset("vm_area_struct", "vm_flags")?,
            vma_file: btf.offset("vm_area_struct", "vm_file")?,
            file_inode: btf.offset("file", "f_inode")?,
            inode_number: btf.offset("inode", "i_ino")?,
            inode_super: btf.offset("inode", "i_sb")?,
            inode_modified: modified.iter().find_map(|name| btf.offset("inode", name))?,
            super_device: btf.offset("super_block", "s_dev")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_tells_all_that_its_version_can() {
        let fields = Fields::needed(true).unwrap();
        assert!(fields.globals().iter().all(|(name, value)| **value != 0 || *name == "VMA_START"), "{fields:?}");
    }
}
