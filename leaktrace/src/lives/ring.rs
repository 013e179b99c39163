//! One CPU's records of mappings, forks, programs and ends, and the memory that the kernel writes them to.
//!
//! A dummy software event counts nothing; it is there for the records that `perf_event_open(2)` writes beside the counts.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, mem, ptr};

use aya_obj::generated::{
    PERF_FLAG_FD_CLOEXEC, perf_event_attr, perf_event_mmap_page, perf_event_sample_format, perf_sw_ids, perf_type_id,
};
use memmap2::{MmapOptions, MmapRaw};

/// `PERF_FORMAT_LOST` (Linux 6.0): reading the event tells how many records found the ring full.
const FORMAT_LOST: u64 = 1 << 4;

/// One CPU's event and the memory that the kernel writes its records to.
pub struct Ring {
    /// The CPU.
    pub cpu: u32,
    event: OwnedFd,
    memory: MmapRaw,
    page: usize,
    /// Of its data pages.
    bytes: usize,
    tells_lost: bool,
    /// What was taken last, in one piece.
    taken: Vec<u8>,
}

impl Ring {
    /// Records what happens on this CPU from now on, in so many bytes.
    pub fn open(cpu: u32, bytes: usize) -> io::Result<Self> {
        let (event, tells_lost) = match open(cpu, FORMAT_LOST) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (open(cpu, 0)?, false),
            opened => (opened?, true),
        };
        // SAFETY: takes a number, returns one.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
        let memory = MmapOptions::new().len(page + bytes).map_raw(event.as_raw_fd())?;
        Ok(Self { cpu, event, memory, page, bytes, tells_lost, taken: Vec::new() })
    }

    fn control(&self) -> *mut perf_event_mmap_page {
        self.memory.as_mut_ptr().cast()
    }

    /// Moves out what the kernel has written.
    pub fn take(&mut self) -> &[u8] {
        let control = self.control();
        // SAFETY: the first page of the mapping, aligned; the kernel writes `data_head` and we alone write `data_tail`,
        // both as whole words.
        let (head, tail) = unsafe {
            (AtomicU64::from_ptr(&raw mut (*control).data_head), AtomicU64::from_ptr(&raw mut (*control).data_tail))
        };
        let (from, to) = (tail.load(Ordering::Relaxed), head.load(Ordering::Acquire));
        self.taken.clear();
        if from == to {
            return &self.taken;
        }
        let length = usize::try_from(to.wrapping_sub(from)).unwrap_or(0).min(self.bytes);
        let start = from as usize % self.bytes;
        let first = length.min(self.bytes - start);
        self.taken.reserve(length);
        // SAFETY: both parts lie in the data pages behind the first page, were written before `data_head` was, and are not
        // written again before `data_tail` is; there is room for both.
        unsafe {
            let data = self.memory.as_ptr().add(self.page);
            ptr::copy_nonoverlapping(data.add(start), self.taken.as_mut_ptr(), first);
            ptr::copy_nonoverlapping(data, self.taken.as_mut_ptr().add(first), length - first);
            self.taken.set_len(length);
        }
        tail.store(to, Ordering::Release);
        &self.taken
    }

    /// Records that found no room, where the kernel tells.
    pub fn lost(&self) -> Option<u64> {
        if !self.tells_lost {
            return None;
        }
        // The value of the dummy, always 0, and the number lost.
        let mut words = [0_u8; 16];
        let read = nix::unistd::read(&self.event, &mut words).ok()?;
        (read == words.len()).then(|| u64::from_ne_bytes([8, 9, 10, 11, 12, 13, 14, 15].map(|at| words[at])))
    }
}

/// The event that counts nothing, on one CPU, for all processes.
fn open(cpu: u32, read_format: u64) -> io::Result<OwnedFd> {
    // SAFETY: a structure of plain integers; the kernel demands that what is not used be 0.
    let mut attr = unsafe { mem::zeroed::<perf_event_attr>() };
    attr.type_ = perf_type_id::PERF_TYPE_SOFTWARE as u32;
    attr.size = size_of::<perf_event_attr>() as u32;
    attr.config = perf_sw_ids::PERF_COUNT_SW_DUMMY as u64;
    attr.sample_type = perf_event_sample_format::PERF_SAMPLE_TIME as u64;
    attr.read_format = read_format;
    attr.set_mmap(1);
    attr.set_mmap2(1);
    attr.set_comm(1);
    attr.set_comm_exec(1);
    attr.set_task(1);
    attr.set_sample_id_all(1);
    attr.set_use_clockid(1);
    attr.clockid = libc::CLOCK_MONOTONIC;
    // Wakes at every record: `wakeup_events` would count samples, of which there are none.
    attr.set_watermark(1);
    attr.__bindgen_anon_2.wakeup_watermark = 1;
    let cpu = i32::try_from(cpu).map_err(io::Error::other)?;
    // SAFETY: `attr` is what the call reads and outlives it; the others are numbers.
    let event = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC) };
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call returned a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(event as RawFd) })
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
