//! Windows in time (`--burst`): when probes are set and removed, and what windows have shown.
//!
//! A window begins when all probes are in place and one word in the kernel says so, and ends when that word says no more; both frees and
//! allocations count by it. Set up and removed around that, probes see nothing. A window is at a random place in its period, so that what
//! a process does in turns does not always fall into windows, or between them.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use leaktrace_common::abi::PROCESS_ALIVE;
use leaktrace_common::flow::{self, Flow};

use super::Trace;
use crate::analysis::flow::{Counts, Windows};
use crate::config::BurstPlan;
use crate::kernel::attach::Attachments;
use crate::kernel::flow::Classes;
use crate::kernel::{Kernel, drain, wait_for_programs};
use crate::model::{Bursts, NetFlow, Pid};
use crate::process::facts;

/// How often it is looked whether probes are in place, or removed.
const LOOK: Duration = Duration::from_millis(2);
/// How long probes may take to be set; then the window is left out, since with some of them flow would seem to be what it is not.
const SET_WITHIN: Duration = Duration::from_secs(2);
/// What one call costs a process, roughly: a trap, and the program in it. See docs/BENCHMARKS.md.
const CALL_COSTS: Duration = Duration::from_nanos(1200);
/// Windows that are opened in any case before it is looked whether any process has more memory.
const AT_LEAST: u64 = 3;
/// Where only the overhead is given: the least distance between two windows, in windows.
const APART: u32 = 5;

/// The windows of a trace.
pub struct Bursting {
    plan: BurstPlan,
    state: State,
    /// When to look again.
    due: Instant,
    /// When the present period began, and how long it is.
    began: Instant,
    period: Duration,
    random: RandomState,
    windows: u64,
    left_out: u64,
    /// Windows that could not be opened in time.
    failed: u64,
    /// Whether sizes of blocks were known in the last window.
    had_headers: bool,
    /// By slot and the time at which the life in it was first seen.
    lives: HashMap<(u32, u64), Life>,
    recorded: Classes,
    /// The most memory that processes had at a window.
    most: HashMap<Pid, u64>,
    /// Processor time that processes had used when the trace began, or when they were first seen.
    used: HashMap<Pid, Duration>,
    calls: u64,
    /// Processes of which nothing was counted at the last window.
    without_room: u64,
}

enum State {
    /// No window is open.
    Closed,
    /// A window could not be opened, and its probes are being removed.
    GivingUp(Receiver<()>),
    /// Probes are being set, until then at most.
    Opening(Instant),
    /// A window is open since then.
    Open(Instant),
    /// A window was open for that long, and the last programs in it are waited for.
    Closing(Duration, Receiver<()>),
}

/// What windows have shown of a process, and its counters at the last one.
#[derive(Default)]
struct Life {
    windows: Windows,
    before: Vec<Flow>,
}

impl Bursting {
    /// None so far; the first period begins now.
    pub fn new(plan: BurstPlan) -> Self {
        let now = Instant::now();
        let period = plan.period.unwrap_or(plan.window * APART);
        let mut bursting = Self {
            plan,
            state: State::Closed,
            due: now,
            began: now,
            period,
            random: RandomState::new(),
            windows: 0,
            left_out: 0,
            failed: 0,
            had_headers: false,
            lives: HashMap::new(),
            recorded: Classes::default(),
            most: HashMap::new(),
            used: HashMap::new(),
            calls: 0,
            without_room: 0,
        };
        bursting.due = bursting.opening();
        bursting
    }

    /// When it is to be looked what comes next.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// A random time in the present period.
    fn opening(&self) -> Instant {
        let random = self.random.hash_one(self.windows + self.left_out + self.failed) >> 11;
        self.began + self.period.saturating_sub(self.plan.window).mul_f64(random as f64 / (1u64 << 53) as f64)
    }

    /// Begins the next period: not before the present one is over, nor before what windows have cost is as little as it should be.
    fn next_period(&mut self, cost: Duration, share: Option<f64>) {
        self.began += self.period;
        let least = self.plan.period.unwrap_or(self.plan.window * APART);
        self.period = match self.plan.max_overhead.zip(share) {
            // A process that does nothing makes no calls either.
            Some((millionths, share)) if share > 0.0 => {
                let most = f64::from(millionths) / 1e6 * share;
                least.max(cost.div_f64(most).min(Duration::from_hours(24)))
            }
            _ => least,
        };
        // Setting and removing probes may have taken longer than a period.
        self.began = self.began.max(Instant::now());
        self.due = self.opening();
    }

    /// Takes in what the window that has just ended shows.
    fn read(&mut self, kernel: &Kernel, open: Duration) -> u64 {
        let mut alive = HashSet::new();
        let mut calls = 0;
        self.without_room = 0;
        for (slot, process) in drain::lives(kernel) {
            if process.state != PROCESS_ALIVE {
                continue;
            }
            let Some(now) = kernel.flow.read(slot) else {
                self.without_room += 1;
                continue;
            };
            let key = (slot, process.seen_ns);
            alive.insert(key);
            let life = self.lives.entry(key).or_default();
            let before = std::mem::take(&mut life.before);
            let counts = now.iter().enumerate().map(|(class, now)| {
                let before = before.get(class).copied().unwrap_or_default();
                let allocs = now.alloc_count.saturating_sub(before.alloc_count);
                let frees = now.free_count.saturating_sub(before.free_count);
                (class as u32, Counts { allocs, bytes: now.alloc_bytes.saturating_sub(before.alloc_bytes), frees })
            });
            let earlier = life.windows.calls();
            life.windows.add(open, counts.filter(|(_, counts)| *counts != Counts::default()));
            calls += life.windows.calls() - earlier;
            life.before = now;
        }
        self.lives.retain(|key, _| alive.contains(key));
        self.windows += 1;
        self.calls += calls;
        self.recorded = Classes::default();
        for class in self.lives.values().flat_map(|life| life.windows.suspected()) {
            self.recorded[class as usize / 64] |= 1 << (class % 64);
        }
        calls
    }

    /// What windows have shown of the process in a slot.
    pub fn net_flow(&self, slot: u32, seen_ns: u64) -> Option<NetFlow> {
        let life = self.lives.get(&(slot, seen_ns))?;
        let is_recorded = |class: u32| self.recorded[class as usize / 64] >> (class % 64) & 1 != 0;
        Some(life.windows.net_flow(flow::sizes, is_recorded))
    }

    /// Takes note of the processor time and memory of these processes, and says whether any has more memory than at any window before.
    fn look_at(&mut self, pids: &[Pid]) -> bool {
        let mut grows = false;
        for pid in pids {
            if let Some(used) = facts::processor_time(*pid) {
                self.used.entry(*pid).or_insert(used);
            }
            let memory = facts::private_memory(*pid).unwrap_or(0);
            let most = self.most.entry(*pid).or_default();
            grows |= memory > *most;
            *most = memory.max(*most);
        }
        self.most.retain(|pid, _| pids.contains(pid));
        grows
    }

    /// The processor time that these processes have used since they were first seen.
    fn used(&self, pids: &[Pid]) -> Duration {
        let of = |pid: &Pid| {
            facts::processor_time(*pid).zip(self.used.get(pid)).map(|(now, then)| now.saturating_sub(*then))
        };
        pids.iter().filter_map(of).sum()
    }
}

/// Removes probes on a thread, since that takes the kernel a while, and says when that is done.
fn remove(probes: Attachments) -> Result<Receiver<()>> {
    let (done, removed) = channel();
    let remove = move || {
        // Programs that had begun before may still count.
        wait_for_programs();
        drop(probes);
        let _ = done.send(());
    };
    thread::Builder::new().name("window".to_owned()).spawn(remove).context("cannot start a thread")?;
    Ok(removed)
}

impl Trace {
    /// Does what is due with windows.
    ///
    /// # Errors
    /// No window can be opened.
    pub(super) fn turn_window(&mut self) -> Result<()> {
        let Some(bursting) = &mut self.bursting else { return Ok(()) };
        bursting.due = Instant::now() + LOOK;
        match &bursting.state {
            State::Closed => self.set_window_up(),
            State::Opening(by) if !self.prober.is_idle() && Instant::now() < *by => Ok(()),
            State::Opening(_) if !self.prober.is_idle() => self.give_window_up(),
            State::GivingUp(closed) => {
                if !matches!(closed.try_recv(), Err(TryRecvError::Empty)) {
                    bursting.state = State::Closed;
                    bursting.next_period(Duration::ZERO, None);
                }
                Ok(())
            }
            State::Opening(_) => {
                let has_headers = self.prober.are_all_glibc();
                if has_headers != bursting.had_headers {
                    // Classes mean something else than in earlier windows.
                    bursting.lives.values_mut().for_each(|life| life.windows = Windows::default());
                    bursting.recorded = Classes::default();
                    bursting.had_headers = has_headers;
                }
                let number = bursting.windows + 1;
                self.kernel.flow.open(number, has_headers, bursting.recorded)?;
                let now = Instant::now();
                bursting.state = State::Open(now);
                bursting.due = now + bursting.plan.window;
                Ok(())
            }
            State::Open(_) => self.close_window(),
            State::Closing(open, closed) => match closed.try_recv() {
                Err(TryRecvError::Empty) => Ok(()),
                Ok(()) | Err(TryRecvError::Disconnected) => {
                    let open = *open;
                    self.take_window_in(open);
                    Ok(())
                }
            },
        }
    }

    fn traced_pids(&self) -> Vec<Pid> {
        self.processes.reported_alive().into_iter().map(|(_, pid)| pid).collect()
    }

    /// Has probes set for a window, unless there is nothing to be seen.
    fn set_window_up(&mut self) -> Result<()> {
        self.take_in();
        let alive = self.processes.reported_alive();
        let pids: Vec<Pid> = alive.iter().map(|(_, pid)| *pid).collect();
        let Some(bursting) = &mut self.bursting else { return Ok(()) };
        if !bursting.look_at(&pids) && bursting.windows >= AT_LEAST {
            bursting.left_out += 1;
            bursting.next_period(Duration::ZERO, None);
            return Ok(());
        }
        for (life, pid) in alive {
            let scope = self.scope(pid);
            if let Some(space) = self.processes.space(life)
                && let Err(error) = self.prober.request_all(&mut self.kernel, space, scope)
            {
                log::warn!("{error:#}");
            }
        }
        self.prober.open_window(&self.kernel)?;
        if let Some(bursting) = &mut self.bursting {
            bursting.state = State::Opening(Instant::now() + SET_WITHIN);
        }
        Ok(())
    }

    /// Ends the window that is open: nothing counts from now on.
    fn close_window(&mut self) -> Result<()> {
        let Some(bursting) = &mut self.bursting else { return Ok(()) };
        let State::Open(since) = &bursting.state else { return Ok(()) };
        self.kernel.flow.close()?;
        let open = since.elapsed();
        bursting.state = State::Closing(open, remove(self.prober.close_window())?);
        Ok(())
    }

    /// Does not open a window whose probes take too long.
    fn give_window_up(&mut self) -> Result<()> {
        let removed = remove(self.prober.close_window())?;
        let Some(bursting) = &mut self.bursting else { return Ok(()) };
        log::warn!("a window is left out: its probes were not in place after {} s", SET_WITHIN.as_secs());
        bursting.failed += 1;
        bursting.state = State::GivingUp(removed);
        Ok(())
    }

    fn take_window_in(&mut self, open: Duration) {
        self.take_in();
        let pids = self.traced_pids();
        let elapsed = self.since.elapsed();
        let Some(bursting) = &mut self.bursting else { return };
        let calls = bursting.read(&self.kernel, open);
        let used = bursting.used(&pids);
        let cost = CALL_COSTS * u32::try_from(calls).unwrap_or(u32::MAX);
        bursting.state = State::Closed;
        bursting.next_period(cost, Some(used.as_secs_f64() / elapsed.as_secs_f64().max(1e-3)));
        log::debug!("window {}: open for {open:.1?}, {calls} calls; the next in {:.1?}", bursting.windows, {
            bursting.due.saturating_duration_since(Instant::now())
        });
    }

    /// Ends what goes on with windows, for the last report: a window that is open ends here.
    pub(super) fn end_windows(&mut self) -> Result<()> {
        self.close_window()?;
        if let Some(bursting) = &mut self.bursting
            && let State::Closing(open, closed) = &bursting.state
        {
            // An error means that the thread is done, too.
            let _ = closed.recv();
            let open = *open;
            self.take_window_in(open);
        }
        Ok(())
    }

    /// How windows went so far, and what they have cost.
    pub(super) fn bursts(&self) -> Option<Bursts> {
        let bursting = self.bursting.as_ref()?;
        let used = bursting.used(&self.traced_pids()).as_secs_f64();
        let cost = CALL_COSTS.as_secs_f64() * bursting.calls as f64;
        Some(Bursts {
            window: bursting.plan.window,
            period: bursting.period,
            windows: bursting.windows,
            left_out: bursting.left_out,
            failed: bursting.failed,
            calls: bursting.calls,
            overhead: (used > 0.0).then_some(cost / used),
            without_room: bursting.without_room,
            frees_lost: self.kernel.flow.frees_lost(),
        })
    }
}
