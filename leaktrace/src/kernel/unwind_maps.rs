//! The two maps by which the programs find unwind tables without a process' slot.

use anyhow::{Context, Result};
use aya::maps::{HashMap, MapData};
use leaktrace_common::unwind::{FileKey, FileTable, ProcessWord};

use super::Kernel;
use crate::model::Pid;

/// Where mapping lists and tables are in the pool.
pub struct UnwindMaps {
    lists: HashMap<MapData, u32, u64>,
    files: HashMap<MapData, FileKey, FileTable>,
}

impl UnwindMaps {
    /// Takes the maps, once.
    ///
    /// # Errors
    /// The BPF object has no such maps.
    pub fn take(kernel: &mut Kernel) -> Result<Self> {
        let mut map = |name| kernel.ebpf.take_map(name).with_context(|| format!("the BPF object has no map {name}"));
        Ok(Self { lists: map("UNWIND_LISTS")?.try_into()?, files: map("UNWIND_FILES")?.try_into()? })
    }

    /// Publishes where a process' mapping list is; the process may have no slot yet.
    ///
    /// # Errors
    /// There are too many.
    pub fn set_list(&mut self, pid: Pid, word: ProcessWord) -> Result<()> {
        Ok(self.lists.insert(pid.0, word.to_bits(), 0)?)
    }

    /// The process has no list any more.
    pub fn remove_list(&mut self, pid: Pid) {
        // It may have had none.
        let _ = self.lists.remove(&pid.0);
    }

    /// Publishes where the table of a file is.
    ///
    /// # Errors
    /// There are too many.
    pub fn set_file(&mut self, key: FileKey, table: FileTable) -> Result<()> {
        Ok(self.files.insert(key, table, 0)?)
    }

    /// The file has no table any more.
    pub fn remove_file(&mut self, key: FileKey) {
        // It may have had none.
        let _ = self.files.remove(&key);
    }
}
