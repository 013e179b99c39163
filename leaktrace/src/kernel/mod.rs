//! The kernel side: the BPF object loaded with its sizes, its programs verified, its tables mapped.

pub(crate) mod attach;
pub(crate) mod attacher;
pub(crate) mod drain;
pub(crate) mod events;
pub(crate) mod flow;
pub(crate) mod ignored_inside;
pub(crate) mod in_flight;
pub(crate) mod inventory;
pub(crate) mod mapped;
mod memory;
pub(crate) mod object;
pub(crate) mod probe;
pub(crate) mod programs;
pub(crate) mod reclaim;
mod samples;
mod sampling;
pub(crate) mod selection;
pub(crate) mod unwind_maps;

use std::num::NonZeroU64;
use std::process;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use aya::maps::{HashMap, MapData, Queue};
use aya::programs::RawTracePoint;
use aya::{Ebpf, EbpfLoader};
use leaktrace_common::abi::{
    Block, Control, FRAMES_PER_CHUNK, Losses, NOT_TRACED, PROCESS_SLOTS, Process, Site, Thread,
};
use leaktrace_common::drawn::{BY_PROGRAMS, Drawn};
use leaktrace_common::sampling::MAX_SAMPLE_BYTES;
use leaktrace_common::table::{self, Bucket};
use leaktrace_common::unwind::Chunk;
use leaktrace_common::wide::WideBlock;

use crate::holder::Holder;
use crate::host::clock::monotonic_ns;
use crate::host::errno;
use crate::host::features;
use crate::host::fields::Fields;
use crate::model::Pid;
use flow::FlowTables;
use ignored_inside::IgnoredInside;
use mapped::MappedArray;
use memory::Tables;
use probe::Probe;
use programs::{Programs, Technique};
use samples::SamplePlaces;
use selection::Selection;

/// What the user can size and filter.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Outstanding blocks there is room for.
    pub max_allocs: u32,
    /// Distinct stacks there is room for.
    pub max_stacks: u32,
    /// Frames kept of a stack.
    pub max_depth: u32,
    /// Smallest block recorded, bytes.
    pub min_size: u64,
    /// Largest block recorded, bytes.
    pub max_size: u64,
    /// Mean distance between sampled bytes; 0 records every block, and [`BY_PROGRAMS`] what programs draw themselves.
    pub sample_bytes: u64,
    /// How stacks are walked: one of the `UNWIND_` constants.
    pub unwind: u32,
    /// Chunks of 4 KiB for unwind tables and mapping lists.
    pub unwind_chunks: u32,
    /// The process of whose threads the registers are told when it ends.
    pub judged: Option<Pid>,
    /// Something is recorded in windows only.
    pub in_windows: bool,
}

/// Threads there is room for. A state takes 136 bytes with its key.
const MAX_THREADS: u32 = 65_536;

/// The loaded programs and the memory they write.
pub struct Kernel {
    /// Maps, tracepoints and, where perf events are used, the uprobe programs.
    pub ebpf: Ebpf,
    /// The uprobe programs.
    pub programs: Programs,
    /// The process that sets probes.
    pub holder: Arc<Holder>,
    /// Keys of outstanding blocks.
    pub block_keys: MappedArray<Bucket>,
    /// Their records.
    pub blocks: MappedArray<Block>,
    /// Keys of outstanding blocks that `block_keys` has none for.
    pub wide_keys: MappedArray<Bucket>,
    /// Their records.
    pub wide_blocks: MappedArray<WideBlock>,
    /// Keys of sites.
    pub site_keys: MappedArray<Bucket>,
    /// Their accounts.
    pub sites: MappedArray<Site>,
    /// Keys of deep stacks' outer frames.
    pub frame_keys: MappedArray<Bucket>,
    /// Frames: the innermost of each site, by its index, and then those of `frame_keys`.
    pub frames: MappedArray<[u64; FRAMES_PER_CHUNK]>,
    /// Keys of threads.
    pub thread_keys: MappedArray<Bucket>,
    /// What each has in flight.
    pub threads: MappedArray<Thread>,
    /// Lives by process slot.
    pub processes: MappedArray<Process>,
    /// Unwind tables and mapping lists.
    pub unwind_pool: MappedArray<Chunk>,
    /// Rules that walks have looked up.
    pub rule_cache: MappedArray<u64>,
    /// Addresses that were ignored and lie far inside of blocks.
    ignored_inside: IgnoredInside,
    /// What flows while windows are open.
    pub flow: FlowTables,
    sample_places: SamplePlaces,
    /// Programs draw blocks themselves.
    are_drawn: bool,
    losses: MappedArray<Losses>,
    control: MappedArray<Control>,
    /// One moment by `CLOCK_MONOTONIC` and in jiffies, once there was a life.
    clocks: OnceLock<(u64, u64)>,
}

impl Kernel {
    /// Loads the object and attaches the tracepoints that end lives; no process is touched yet.
    ///
    /// Nothing is recorded of `holder`.
    pub fn load(
        object: &[u8],
        limits: &Limits,
        selection: &Selection,
        technique: Technique,
        holder: Arc<Holder>,
    ) -> Result<Self> {
        let block_buckets = table::buckets_for(limits.max_allocs);
        let wide_buckets = memory::wide_buckets(limits.max_allocs);
        let site_buckets = table::buckets_for(limits.max_stacks);
        let thread_buckets = table::buckets_for(MAX_THREADS);
        let sites = table::positions(site_buckets);
        let outer = memory::outer_chunks(limits.max_stacks, limits.max_depth);
        let frame_buckets = table::dense_buckets_for(outer);
        let all_frames = table::positions(frame_buckets).checked_add(sites).with_context(|| {
            let Limits { max_stacks, max_depth, .. } = limits;
            format!("{max_stacks} stacks of {max_depth} frames are more than a map holds; lower --max-stacks")
        })?;
        let blocks = table::positions(block_buckets);
        Tables { block_buckets, blocks, wide_buckets, site_buckets, sites, frame_buckets, frames: all_frames }
            .check()?;
        let (self_tgid, group_dead) = (process::id(), u32::from(exit_tells_group_dead()));
        let fields = Fields::needed(selection.following)?;
        let judged_tgid = limits.judged.filter(|_| features::tells_registers()).map_or(0, |pid| pid.0);
        let (following, filters) = (u32::from(selection.following), selection.filters());
        let max_size_complement = u64::MAX - limits.max_size;
        let log_level = if log::log_enabled!(log::Level::Debug) { aya_log::Level::Debug as u8 } else { 0 };
        let sessions = u32::from(technique == Technique::Sessions);
        let are_drawn = limits.sample_bytes == BY_PROGRAMS;
        let in_windows = u32::from(limits.in_windows);

        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("BLOCK_KEYS", block_buckets)
            .map_max_entries("BLOCKS", blocks)
            .map_max_entries("WIDE_KEYS", wide_buckets)
            .map_max_entries("WIDE_BLOCKS", table::positions(wide_buckets))
            .map_max_entries("SITE_KEYS", site_buckets)
            .map_max_entries("SITES", sites)
            .map_max_entries("FRAME_KEYS", frame_buckets)
            .map_max_entries("FRAMES", all_frames)
            .map_max_entries("UNWIND_POOL", limits.unwind_chunks)
            .map_max_entries("THREAD_KEYS", thread_buckets)
            .map_max_entries("THREADS", table::positions(thread_buckets))
            .map_max_entries("FLOWS", FlowTables::elements(limits.in_windows))
            .map_max_entries("FLOW_THREADS", if limits.in_windows { table::positions(thread_buckets) } else { 1 })
            .override_global("BLOCK_BUCKETS", &block_buckets, true)
            .override_global("WIDE_BUCKETS", &wide_buckets, true)
            .override_global("SITE_BUCKETS", &site_buckets, true)
            .override_global("THREAD_BUCKETS", &thread_buckets, true)
            .override_global("FRAME_BUCKETS", &frame_buckets, true)
            .override_global("FIRST_OUTER", &sites, true)
            .override_global("MAX_DEPTH", &limits.max_depth, true)
            .override_global("UNWIND", &limits.unwind, true)
            .override_global("MIN_SIZE", &limits.min_size, true)
            .override_global("MAX_SIZE_COMPLEMENT", &max_size_complement, true)
            .override_global("SAMPLE_BYTES", &limits.sample_bytes, true)
            .override_global("SESSIONS", &sessions, true)
            .override_global("BURSTS", &in_windows, true)
            .override_global(aya_log::LEVEL, &log_level, true)
            .override_global("SELF_TGID", &self_tgid, true)
            .override_global("JUDGED_TGID", &judged_tgid, true)
            .override_global("FOLLOWING", &following, true)
            .override_global("FILTERS", &filters, true)
            .override_global("HAS_GROUP_DEAD", &group_dead, true);
        for (name, value) in fields.globals() {
            loader.override_global(name, value, true);
        }
        let mut ebpf = loader.load(object).map_err(anyhow::Error::from).map_err(|error| {
            let next =
                if errno::of(&error) == Some(libc::ENOMEM) { memory::LACKING } else { "cannot load the BPF object" };
            error.context(next)
        })?;

        let mut kernel = Self {
            block_keys: MappedArray::new(&ebpf, "BLOCK_KEYS")?,
            blocks: MappedArray::new(&ebpf, "BLOCKS")?,
            wide_keys: MappedArray::new(&ebpf, "WIDE_KEYS")?,
            wide_blocks: MappedArray::new(&ebpf, "WIDE_BLOCKS")?,
            site_keys: MappedArray::new(&ebpf, "SITE_KEYS")?,
            sites: MappedArray::new(&ebpf, "SITES")?,
            frame_keys: MappedArray::new(&ebpf, "FRAME_KEYS")?,
            frames: MappedArray::new(&ebpf, "FRAMES")?,
            thread_keys: MappedArray::new(&ebpf, "THREAD_KEYS")?,
            threads: MappedArray::new(&ebpf, "THREADS")?,
            processes: MappedArray::new(&ebpf, "PROCESSES")?,
            unwind_pool: MappedArray::new(&ebpf, "UNWIND_POOL")?,
            rule_cache: MappedArray::new(&ebpf, "RULE_CACHE")?,
            losses: MappedArray::new(&ebpf, "LOSSES")?,
            control: MappedArray::new(&ebpf, "CONTROL")?,
            clocks: OnceLock::new(),
            programs: Programs::load(technique, are_drawn, object, &ebpf)?,
            flow: FlowTables::new(&ebpf)?,
            ignored_inside: IgnoredInside::take(&mut ebpf)?,
            sample_places: SamplePlaces::default(),
            are_drawn,
            holder,
            ebpf,
        };
        // The holder is never traced: the BPF programs leave an entry with a slot out of range alone until its process ends.
        let slots = kernel.ebpf.map_mut("SLOTS").context("the BPF object has no map SLOTS")?;
        HashMap::<&mut MapData, u32, u32>::try_from(slots)?.insert(kernel.holder.pid().0, NOT_TRACED, 0)?;
        if ![0, BY_PROGRAMS].contains(&limits.sample_bytes) {
            sampling::fill(&mut kernel.ebpf, limits.sample_bytes)?;
        }
        // Slot 0 means "none". Nothing is recorded before everything is in place.
        let control = Control { stopped: 1, next_slot: first_slot(), ..Control::default() };
        // SAFETY: the map's only element; no program is attached yet.
        unsafe { kernel.control()?.write_volatile(control) };
        selection.fill(&mut kernel.ebpf)?;
        for name in ["process_fork", "process_exec", "process_exit"] {
            let program: &mut RawTracePoint = kernel
                .ebpf
                .program_mut(name)
                .with_context(|| format!("the BPF object has no program {name}"))?
                .try_into()?;
            program.load().with_context(|| format!("cannot load the BPF program {name}"))?;
            let tracepoint = format!("sched_{name}");
            program.attach(&tracepoint).with_context(|| format!("cannot attach to the tracepoint {tracepoint}"))?;
        }
        Ok(kernel)
    }

    /// Gives a process slot back to the programs: nothing in the tables may bear its number any more.
    pub fn give_back(&mut self, slot: u32) -> Result<()> {
        self.flow.clear(slot);
        let map = self.ebpf.map_mut("FREE_SLOTS").context("the BPF object has no map FREE_SLOTS")?;
        let mut free = Queue::<&mut MapData, u32>::try_from(map)?;
        free.push(slot, 0).with_context(|| format!("cannot give the process slot {slot} back"))
    }

    /// Has a process and its later descendants traced, where only followed processes are.
    pub fn follow(&mut self, pid: Pid) -> Result<()> {
        selection::follow(&mut self.ebpf, pid)
    }

    /// Has the BPF programs record from now on. Earlier, while probes are still being attached, they would see allocations
    /// whose frees go unseen.
    pub fn start(&self) -> Result<()> {
        self.set_stopped(0)
    }

    /// Makes the BPF programs do nothing from now on; those that run at this moment may still write something.
    pub fn halt(&self) -> Result<()> {
        self.set_stopped(1)
    }

    /// Makes the BPF programs do nothing from now on, so that the tables do not change any more.
    pub fn stop(&self) -> Result<()> {
        self.set_stopped(1)?;
        // Programs on other CPUs, and preempted ones, may have read the flag before.
        wait_for_programs();
        Ok(())
    }

    /// When the first life was first seen: by `CLOCK_MONOTONIC`, in nanoseconds, and in jiffies. `None` before the first life.
    pub fn clocks(&self) -> Option<(u64, u64)> {
        // Kept, since its slot may be reused.
        let first = self.processes.read(1).filter(|life| life.state != 0);
        self.clocks.get().copied().or_else(|| {
            let life = first?;
            Some(*self.clocks.get_or_init(|| (life.seen_ns, life.seen_jiffies)))
        })
    }

    /// What could not be recorded so far.
    pub fn losses(&self) -> Losses {
        self.losses.read(0).unwrap_or_default()
    }

    /// Whether calls of processes were dropped because every process slot was taken.
    pub fn slots_ran_out(&self) -> bool {
        self.losses().slots_dropped > 0
    }

    /// Tells the programs where these probes have their arguments, as far as these tell of samples.
    ///
    /// # Errors
    /// There are too many ways.
    pub fn number_samples(&mut self, probes: &mut [Probe]) -> Result<()> {
        self.sample_places.number(&mut self.ebpf, probes)
    }

    /// The largest mean distance, in bytes, at which programs have drawn blocks themselves, or up to 1.4 times that; `None` before
    /// the first.
    pub fn drawn_at(&self) -> Option<u64> {
        let weight = self.control.read(0).map(|control| control.sample_weight).filter(|weight| *weight > 0);
        weight.map(|weight| weight.min(MAX_SAMPLE_BYTES))
    }

    /// What the size in a block's record says: the bytes asked for, and the bytes that it stands for where its program has drawn it
    /// itself and these are more.
    pub fn size_of(&self, word: u64) -> (u64, Option<NonZeroU64>) {
        if !self.are_drawn {
            return (word, None);
        }
        let Drawn { size, weight } = Drawn::of_word(word);
        (size, NonZeroU64::new(weight).filter(|weight| weight.get() != size))
    }

    /// How many lives of followed processes have ended so far.
    pub fn followed_ends(&self) -> u64 {
        self.control.read(0).map_or(0, |control| control.followed_ends)
    }

    /// Tells the BPF programs how often code was replaced in the process of a slot. Returns moments before and after the write,
    /// or `None` if the slot no longer holds the life that was first seen at `seen_ns`.
    ///
    /// # Errors
    /// The clock cannot be read.
    pub fn set_replaced(&self, slot: u32, seen_ns: u64, count: u32) -> Result<Option<(u64, u64)>> {
        let Some(process) = self.processes.pointer(slot) else { return Ok(None) };
        let before = monotonic_ns()?;
        // SAFETY: in bounds; aligned words, of which the upper half of the layout is ours alone to write.
        unsafe {
            if (&raw const (*process).seen_ns).read_volatile() != seen_ns {
                return Ok(None);
            }
            (&raw mut (*process).layout).cast::<u32>().wrapping_add(1).write_volatile(count);
        }
        Ok(Some((before, monotonic_ns()?)))
    }

    fn set_stopped(&self, stopped: u64) -> Result<()> {
        // SAFETY: the map's only element; one aligned word, which the programs only read.
        unsafe { (&raw mut (*self.control()?).stopped).write_volatile(stopped) };
        Ok(())
    }

    fn control(&self) -> Result<*mut Control> {
        self.control.pointer(0).context("the BPF object's map CONTROL is empty")
    }
}

/// The first slot for a process. In debug builds `LEAKTRACE_SLOTS` limits the number of slots, so that tests can exceed it: the
/// first slot is then that many from the end.
fn first_slot() -> u64 {
    let wanted = if cfg!(debug_assertions) { std::env::var("LEAKTRACE_SLOTS").ok() } else { None };
    let slots = wanted.and_then(|slots| slots.parse::<u32>().ok()).filter(|slots| (1..PROCESS_SLOTS).contains(slots));
    slots.map_or(1, |slots| u64::from(PROCESS_SLOTS - slots))
}

/// Waits until every program that runs now has finished: for a grace period of RCU (kernel/sched/membarrier.c).
pub fn wait_for_programs() {
    // SAFETY: takes three numbers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        log::debug!("the programs were not waited for: {}", std::io::Error::last_os_error());
    }
}

/// Whether the exit tracepoint passes "the whole group is dead", which came with Linux 6.16.
fn exit_tells_group_dead() -> bool {
    crate::host::version::version() >= (6, 16)
}
