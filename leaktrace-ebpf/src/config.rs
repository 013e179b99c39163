//! What userspace decides once, before the programs are loaded: the verifier sees these as constants and drops the
//! code they rule out.

use aya_ebpf::Global;

macro_rules! globals {
    ($($(#[$doc:meta])* $static_name:ident $name:ident: $type:ty;)*) => {
        $(
            #[unsafe(no_mangle)]
            static $static_name: Global<$type> = Global::new(0);

            $(#[$doc])*
            #[inline(always)]
            pub fn $name() -> $type {
                $static_name.load()
            }
        )*
    };
}

globals! {
    /// Buckets of the block table.
    BLOCK_BUCKETS block_buckets: u32;
    /// Buckets of the table of blocks that the block table has no keys for.
    WIDE_BUCKETS wide_buckets: u32;
    /// Buckets of the site table.
    SITE_BUCKETS site_buckets: u32;
    /// Buckets of the thread table.
    THREAD_BUCKETS thread_buckets: u32;
    /// Frames kept of a stack.
    MAX_DEPTH max_depth: u32;
    /// How stacks are walked: one of the `UNWIND_` constants.
    UNWIND unwind: u32;
    /// Buckets of the table of frames beyond the innermost.
    FRAME_BUCKETS frame_buckets: u32;
    /// The first element of the frames array that is that table's: as many as there are places for sites.
    FIRST_OUTER first_outer: u32;
    /// The smallest block recorded, bytes.
    MIN_SIZE min_size: u64;
    /// The largest block recorded less `u64::MAX`, in two's complement: 0 means unlimited.
    MAX_SIZE_COMPLEMENT max_size_complement: u64;
    /// Mean distance between sampled bytes; 0 records every block.
    SAMPLE_BYTES sample_bytes: u64;
    /// Nonzero where `malloc` and `call` are attached as uprobe sessions.
    SESSIONS sessions: u32;
    /// Nonzero where the programs do something in windows only, and count flow: see [`crate::flow`].
    BURSTS bursts: u32;
    /// leaktrace's own pid, never traced.
    SELF_TGID self_tgid: u32;
    /// Nonzero where only the processes in `FOLLOWED` are traced.
    FOLLOWING following: u32;
    /// Which filters there are: `FILTER_` bits.
    FILTERS filters: u32;
    /// Where `task_struct` has its fields, bytes; 0 where the kernel does not tell.
    TASK_TGID task_tgid: u32;
    /// See [`task_tgid`].
    TASK_COMM task_comm: u32;
    /// See [`task_tgid`].
    TASK_GROUP_LEADER task_group_leader: u32;
    /// See [`task_tgid`].
    TASK_SIGNAL task_signal: u32;
    /// Where `signal_struct` counts the threads that are alive, bytes; 0 where the kernel does not tell.
    SIGNAL_LIVE signal_live: u32;
    /// Nonzero where the kernel can be asked what is mapped at an address: it has `bpf_find_vma`, and the fields below are
    /// where they say, bytes.
    KNOWS_VMA knows_vma: u32;
    /// `vm_area_struct.vm_start`
    VMA_START vma_start: u32;
    /// `vm_area_struct.vm_pgoff`
    VMA_PGOFF vma_pgoff: u32;
    /// `vm_area_struct.vm_flags`
    VMA_FLAGS vma_flags: u32;
    /// `vm_area_struct.vm_file`
    VMA_FILE vma_file: u32;
    /// `file.f_inode`
    FILE_INODE file_inode: u32;
    /// `inode.i_ino`
    INODE_NUMBER inode_number: u32;
    /// `inode.i_sb`
    INODE_SUPER inode_super: u32;
    /// `inode.i_mtime_sec`, or the older name of what begins with it.
    INODE_MODIFIED inode_modified: u32;
    /// `super_block.s_dev`
    SUPER_DEVICE super_device: u32;
    /// The pid of the process whose threads' registers are told when it ends; 0 for none.
    JUDGED_TGID judged_tgid: u32;
    /// `task_struct.thread.fsbase` or `thread_struct.uw.tp_value`; 0 where the kernel does not tell.
    THREAD_BASE thread_base: u32;
    /// `task_struct.thread.gsbase`; 0 where the kernel does not tell.
    THREAD_GS_BASE thread_gs_base: u32;
    /// Nonzero where the exit tracepoint says whether a whole process ended (6.16).
    HAS_GROUP_DEAD has_group_dead: u32;
}

/// Whether every block is recorded, not those of some sizes or a sample.
#[inline(always)]
pub fn records_every_block() -> bool {
    sample_bytes() == 0 && min_size() == 0 && max_size() == u64::MAX
}

/// The largest block recorded, bytes.
#[inline(always)]
pub fn max_size() -> u64 {
    u64::MAX - max_size_complement()
}
