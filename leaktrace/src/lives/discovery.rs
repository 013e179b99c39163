//! News of address spaces: what the kernel records of mappings, forks, programs and ends, on every CPU.
//!
//! In: a [`Ring`] for each CPU that is online, those that come online later included. Out: [`Record`]s of all CPUs in the order
//! in which they happened, and how many were lost.
//!
//! Never touches a process: what the records mean is decided elsewhere. Never waits: its descriptor can be read when there is
//! something.

use std::collections::BTreeSet;
use std::mem;
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::mmap_records::{self, Record, What};
use super::ring::Ring;
use crate::host::cpus;

/// Memory of one CPU's ring, a power of two: at 1,500 new processes a second on one CPU, records of half a second, and of
/// four seconds where there are few CPUs: as long as a report of many sites keeps us.
const RING_BYTES: (usize, usize) = (512 << 10, 4 << 20);
/// Memory of all rings, where CPUs are few.
const ALL_RINGS_BYTES: usize = 16 << 20;

/// The rings of all CPUs.
pub struct Discovery {
    rings: Vec<Ring>,
    /// All rings' descriptors in one.
    wakeups: Epoll,
    /// Records that were read ahead: earlier ones may still be unread.
    later: Vec<Record>,
    /// Lost records, as counted by `PERF_RECORD_LOST`.
    told_lost: u64,
    /// Lost records of rings whose CPUs have gone offline.
    lost_with_cpus: u64,
    /// CPUs that came online after the start: what happened there before they had a ring is lost.
    came_online: u64,
    /// CPUs that are online and could not be given a ring.
    without_ring: BTreeSet<u32>,
    /// Size of each ring.
    bytes: usize,
}

impl AsRawFd for Discovery {
    fn as_raw_fd(&self) -> RawFd {
        self.wakeups.0.as_raw_fd()
    }
}

impl Discovery {
    /// Records everything from now on.
    ///
    /// # Errors
    /// The kernel does not let us, by its `perf_event_paranoid`, lockdown or lack of memory that may be locked.
    pub fn start() -> Result<Self> {
        let cpus = cpus::online().context("cannot list the CPUs")?;
        let (least, most) = RING_BYTES;
        let share = ALL_RINGS_BYTES / cpus.len().next_power_of_two();
        Self::with_rings(&cpus, share.clamp(least, most))
    }

    /// With rings of so many bytes.
    fn with_rings(cpus: &[u32], bytes: usize) -> Result<Self> {
        let wakeups = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll descriptor")?;
        let mut discovery = Self {
            rings: Vec::with_capacity(cpus.len()),
            wakeups,
            later: Vec::new(),
            told_lost: 0,
            lost_with_cpus: 0,
            came_online: 0,
            without_ring: BTreeSet::new(),
            bytes,
        };
        cpus.iter().try_for_each(|cpu| discovery.open(*cpu))?;
        Ok(discovery)
    }

    fn open(&mut self, cpu: u32) -> Result<()> {
        let ring = Ring::open(cpu, self.bytes)
            .with_context(|| format!("the kernel does not let us record mappings on CPU {cpu} (perf_event_open)"))?;
        self.wakeups.add(&ring, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(cpu)))?;
        self.rings.push(ring);
        Ok(())
    }

    /// Gives CPUs that have come online since the last time a ring, and takes those of CPUs that have gone. To be called
    /// once a second or so, and before the last reading.
    ///
    /// # Errors
    /// A CPU that is new cannot be recorded, which is said once; what happens there counts as one loss until it can be.
    pub fn follow_cpus(&mut self) -> Result<()> {
        self.follow(&cpus::online().context("cannot list the CPUs")?)
    }

    fn follow(&mut self, online: &[u32]) -> Result<()> {
        let (gone, rings): (Vec<_>, Vec<_>) =
            mem::take(&mut self.rings).into_iter().partition(|ring| !online.contains(&ring.cpu));
        self.rings = rings;
        for mut ring in gone {
            log::info!("CPU {} is offline", ring.cpu);
            self.told_lost += keep(mmap_records::parse(ring.take()), &mut self.later);
            self.lost_with_cpus += ring.lost().unwrap_or(0);
            // The event and its epoll entry go with the ring. A CPU that comes back gets a new ring.
        }
        self.without_ring.retain(|cpu| online.contains(cpu));
        let mut failed = Ok(());
        for cpu in online {
            if self.rings.iter().any(|ring| ring.cpu == *cpu) {
                continue;
            }
            let is_new = self.without_ring.insert(*cpu);
            if is_new {
                log::info!("CPU {cpu} is online; what was mapped there until now may be missing");
                self.came_online += 1;
            }
            match self.open(*cpu) {
                Ok(()) => {
                    self.without_ring.remove(cpu);
                }
                Err(error) if is_new => failed = failed.and(Err(error)),
                Err(_) => {}
            }
        }
        failed
    }

    /// Whether records of some CPU are being missed.
    pub fn is_blind(&self) -> bool {
        !self.without_ring.is_empty()
    }

    /// Whether records were read ahead, which the descriptor does not announce.
    pub fn has_more(&self) -> bool {
        !self.later.is_empty()
    }

    /// Records since the last reading, in order: a later reading returns none that precede them.
    pub fn read(&mut self) -> Vec<Record> {
        self.acknowledge();
        let mut records = mem::take(&mut self.later);
        self.collect(&mut records);
        let Some(horizon) = records.iter().map(|record| record.time_ns).max() else { return records };
        // While the last rings were read, the first may have received records that precede theirs: reads all rings again, and
        // returns records up to the latest time of the first pass.
        self.collect(&mut records);
        records.sort_by_key(|record| record.time_ns);
        self.later = records.split_off(records.partition_point(|record| record.time_ns <= horizon));
        records
    }

    /// Consumes the epoll events, so that the descriptor becomes readable only for records that come after this.
    fn acknowledge(&self) {
        let mut events = [EpollEvent::empty(); 16];
        while self.wakeups.wait(&mut events, EpollTimeout::ZERO).is_ok_and(|count| count == events.len()) {}
    }

    fn collect(&mut self, records: &mut Vec<Record>) {
        for ring in &mut self.rings {
            self.told_lost += keep(mmap_records::parse(ring.take()), records);
        }
    }

    /// Records that found no room so far.
    pub fn lost(&self) -> u64 {
        // `PERF_RECORD_LOST` comes only once there is room again; kernels before 6.0 count losses by it alone.
        let by_rings = self.lost_with_cpus + self.rings.iter().filter_map(Ring::lost).sum::<u64>();
        by_rings.max(self.told_lost) + self.came_online
    }
}

/// Adds records to those that are kept; returns how many others they say were lost.
fn keep(from: impl Iterator<Item = Record>, records: &mut Vec<Record>) -> u64 {
    let mut lost = 0;
    for record in from {
        match record.what {
            What::Lost(count) => lost += count,
            _ => records.push(record),
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::model::Pid;

    /// What happens to one process until its end.
    fn life_of(discovery: &mut Discovery, pid: Pid) -> Vec<What> {
        let mut life = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if !discovery.has_more() {
                let left = deadline.saturating_duration_since(Instant::now());
                let mut news = [PollFd::new(discovery.wakeups.0.as_fd(), PollFlags::POLLIN)];
                assert_eq!(poll(&mut news, PollTimeout::try_from(left).unwrap()), Ok(1), "no end so far: {life:?}");
            }
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

    #[test]
    fn a_process_is_told_of_from_its_fork_to_its_end() {
        let mut discovery = Discovery::start().expect("needs root: run it by `cargo xtask test`");
        let mut child = Command::new("/bin/true").spawn().unwrap();
        let pid = Pid(child.id());
        let life = life_of(&mut discovery, pid);
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

    #[test]
    fn a_cpu_that_cannot_have_a_ring_is_one_loss_and_said_once_each_time_it_is_there() {
        let mut online = cpus::online().unwrap();
        let mut discovery = Discovery::with_rings(&online, RING_BYTES.0).expect("needs root");
        let present = online.len();
        // There is none of this number, so the kernel refuses.
        online.push(8191);
        assert!(discovery.follow(&online).unwrap_err().to_string().contains("CPU 8191"));
        for _ in 0..3 {
            discovery.follow(&online).unwrap();
        }
        assert!(discovery.is_blind() && discovery.lost() == 1);
        discovery.follow(&online[..present]).unwrap();
        assert!(!discovery.is_blind());
        discovery.follow(&online).unwrap_err();
        assert_eq!(discovery.lost(), 2, "it came once more");
        assert_eq!(discovery.rings.len(), present);
    }

    #[test]
    fn a_cpu_that_had_no_ring_gets_one_and_counts_as_a_loss_until_it_has() {
        let online = cpus::online().unwrap();
        assert!(online.len() > 1, "this test needs two CPUs");
        let mut discovery = Discovery::with_rings(&online[..1], RING_BYTES.0).expect("needs root");
        discovery.follow_cpus().unwrap();
        assert_eq!(discovery.rings.len(), online.len());
        assert_eq!(discovery.lost(), online.len() as u64 - 1);
        discovery.follow_cpus().unwrap();
        assert_eq!(discovery.lost(), online.len() as u64 - 1, "nothing has changed");
        // A process on a CPU that came later.
        let other = online[1].to_string();
        let mut child = Command::new("taskset").args(["-c", &other, "/bin/true"]).spawn().unwrap();
        let pid = Pid(child.id());
        let told = life_of(&mut discovery, pid);
        child.wait().unwrap();
        assert!(told.iter().any(|what| matches!(what, What::Executed { comm, .. } if comm == "true")));
    }
}
