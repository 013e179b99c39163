//! News of address spaces: what the kernel records of mappings, forks, programs and ends, on every CPU.
//!
//! A dummy software event on each CPU counts nothing; it is there for the records that `perf_event_open(2)` writes beside
//! the counts. Out: [`Record`]s of all CPUs in the order in which they happened.
//!
//! Never touches a process: what the records mean is decided elsewhere.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, mem, ptr};

use anyhow::{Context, Result};
use aya_obj::generated::{
    PERF_FLAG_FD_CLOEXEC, perf_event_attr, perf_event_mmap_page, perf_event_sample_format, perf_sw_ids, perf_type_id,
};
use memmap2::{MmapOptions, MmapRaw};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::mmap_records::{self, Record, What};

/// Memory of one CPU's ring, a power of two: at 1,500 new processes a second on one CPU, records of half a second, and of
/// four seconds where there are few CPUs: as long as a report of many sites keeps us.
const RING_BYTES: (usize, usize) = (512 << 10, 4 << 20);
/// Memory of all rings, where CPUs are few.
const ALL_RINGS_BYTES: usize = 16 << 20;
/// `PERF_FORMAT_LOST` (Linux 6.0): reading the event tells how many records found the ring full.
const FORMAT_LOST: u64 = 1 << 4;

/// The rings of all CPUs.
pub struct Discovery {
    rings: Vec<Ring>,
    wakeups: AsyncFd<Wakeups>,
    /// Read already, but something that happened before may not have been.
    later: Vec<Record>,
    /// By records that say so.
    told_lost: u64,
}

/// All rings' descriptors in one.
struct Wakeups(Epoll);

impl AsRawFd for Wakeups {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl Discovery {
    /// Records everything from now on.
    ///
    /// # Errors
    /// The kernel does not let us, by its `perf_event_paranoid`, lockdown or lack of memory that may be locked.
    pub fn start() -> Result<Self> {
        let cpus = aya::util::online_cpus().map_err(|(_, error)| error).context("cannot list the CPUs")?;
        let (least, most) = RING_BYTES;
        let share = ALL_RINGS_BYTES / cpus.len().next_power_of_two();
        Self::with_rings(&cpus, share.clamp(least, most))
    }

    /// With rings of so many bytes.
    fn with_rings(cpus: &[u32], bytes: usize) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll descriptor")?;
        let mut rings = Vec::with_capacity(cpus.len());
        for &cpu in cpus {
            let ring = Ring::open(cpu, bytes).with_context(|| {
                format!("the kernel does not let us record mappings on CPU {cpu} (perf_event_open)")
            })?;
            epoll.add(&ring.event, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(cpu)))?;
            rings.push(ring);
        }
        // SAFETY: the epoll owns its descriptor and keeps it to its end.
        let wakeups = unsafe { AsyncFd::register_with_interest(Wakeups(epoll), Interest::READABLE) }
            .context("cannot wait for records of mappings")?;
        Ok(Self { rings, wakeups, later: Vec::new(), told_lost: 0 })
    }

    /// Waits until there is something to read. May be cancelled.
    ///
    /// # Errors
    /// None that is expected.
    pub async fn ready(&mut self) -> io::Result<()> {
        if self.later.is_empty() {
            self.wakeups.readable().await?.clear_ready();
            // Asks the rings: whatever comes after this wakes us again.
            let mut events = [EpollEvent::empty(); 16];
            while self
                .wakeups
                .get_ref()
                .0
                .wait(&mut events, EpollTimeout::ZERO)
                .is_ok_and(|count| count == events.len())
            {}
        }
        Ok(())
    }

    /// What has happened since the last time, in order. What preceded a record is never behind it or in a later reading.
    pub fn read(&mut self) -> Vec<Record> {
        let mut records = mem::take(&mut self.later);
        self.collect(&mut records);
        let Some(horizon) = records.iter().map(|record| record.time_ns).max() else { return records };
        // A ring that was read first may have received meanwhile what preceded something in one read last: once more, up
        // to the time of the latest record found so far.
        self.collect(&mut records);
        records.sort_by_key(|record| record.time_ns);
        self.later = records.split_off(records.partition_point(|record| record.time_ns <= horizon));
        records
    }

    fn collect(&mut self, records: &mut Vec<Record>) {
        for ring in &mut self.rings {
            for record in mmap_records::parse(ring.take()) {
                match record.what {
                    What::Lost(count) => self.told_lost += count,
                    _ => records.push(record),
                }
            }
        }
    }

    /// Records that found no room so far.
    pub fn lost(&self) -> u64 {
        // Records tell only once there is room again; older kernels tell by them alone.
        self.rings.iter().filter_map(Ring::lost).sum::<u64>().max(self.told_lost)
    }
}

/// One CPU's event and the memory that the kernel writes its records to.
struct Ring {
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
    fn open(cpu: u32, bytes: usize) -> io::Result<Self> {
        let (event, tells_lost) = match open(cpu, FORMAT_LOST) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (open(cpu, 0)?, false),
            opened => (opened?, true),
        };
        // SAFETY: takes a number, returns one.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
        let memory = MmapOptions::new().len(page + bytes).map_raw(event.as_raw_fd())?;
        Ok(Self { event, memory, page, bytes, tells_lost, taken: Vec::new() })
    }

    fn control(&self) -> *mut perf_event_mmap_page {
        self.memory.as_mut_ptr().cast()
    }

    /// Moves out what the kernel has written.
    fn take(&mut self) -> &[u8] {
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
    fn lost(&self) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::model::Pid;

    /// What happens to one process until its end.
    async fn life_of(discovery: &mut Discovery, pid: Pid) -> Vec<What> {
        let mut life = Vec::new();
        loop {
            discovery.ready().await.unwrap();
            for record in discovery.read() {
                let concerned = match &record.what {
                    What::Mapped { pid, .. }
                    | What::Executed { pid, .. }
                    | What::Renamed { pid, .. }
                    | What::Forked { pid, .. }
                    | What::Exited { pid, .. } => *pid,
                    What::Lost(_) => continue,
                };
                if concerned == pid {
                    life.push(record.what);
                }
            }
            if matches!(life.last(), Some(What::Exited { .. })) {
                return life;
            }
        }
    }

    #[tokio::test]
    async fn a_process_is_told_of_from_its_fork_to_its_end() {
        let mut discovery = Discovery::start().expect("needs root: run it by `cargo xtask test`");
        let mut child = Command::new("/bin/true").spawn().unwrap();
        let pid = Pid(child.id());
        let life = tokio::time::timeout(Duration::from_secs(30), life_of(&mut discovery, pid)).await.unwrap();
        child.wait().unwrap();
        assert_eq!(life[0], What::Forked { pid, parent: Pid(std::process::id()) });
        let executed = life.iter().position(|what| matches!(what, What::Executed { comm, .. } if comm == "true"));
        let mapped: Vec<String> = life[executed.expect("its exec is told")..]
            .iter()
            .filter_map(|what| match what {
                What::Mapped { mapping, .. } => Some(mapping.name.display().to_string_lossy().into_owned()),
                _ => None,
            })
            .collect();
        assert!(mapped[0].ends_with("/true"), "its own code comes first: {mapped:?}");
        assert!(mapped.iter().any(|path| path.contains("libc.so")), "{mapped:?}");
        assert_eq!(discovery.lost(), 0);
    }

    #[test]
    fn a_full_ring_says_how_much_it_lost() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        let bytes = RING_BYTES.0;
        let mut discovery = Discovery::with_rings(&[0], bytes).expect("needs root: run it by `cargo xtask test`");
        // On one CPU; each thread leaves two records of 40 bytes there.
        let mut one = nix::sched::CpuSet::new();
        one.set(0).unwrap();
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one).unwrap();
        let churn = |threads| (0..threads).for_each(|_| std::thread::spawn(|| ()).join().unwrap());
        churn(bytes / 80 + 1000);
        let read = discovery.read().len();
        assert!(read > 6000, "{read}");
        // Now there is room for the record that says it.
        churn(1);
        discovery.read();
        assert!(discovery.told_lost >= 1900 && discovery.lost() >= discovery.told_lost, "{}", discovery.told_lost);
    }
}
