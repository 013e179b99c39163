//! Everything up to the moment at which tracing begins: the programs loaded, every allocator probed, unwind tables built.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use leaktrace_common::abi::{UNWIND_AUTO, UNWIND_DWARF, UNWIND_FP};
use leaktrace_common::drawn::BY_PROGRAMS;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep_until;

use super::Trace;
use super::alerts::Alerts;
use super::aside::aside;
use super::bursts::Bursting;
use super::growing::{self, Growth};
use super::history::History;
use super::intake::Reclaimed;
use super::memory::MemoryReader;
use super::records::Records;
use super::untraced::UntracedProcesses;
use super::verdict::second_look::SecondLook;
use crate::clean::clean;
use crate::config::{Config, Recording, Whom};
use crate::holder::Holder;
use crate::host::clock::monotonic_ns;
use crate::host::seccomp;
use crate::host::version::version;
use crate::kernel::attach::Scope;
use crate::kernel::events::Events;
use crate::kernel::object;
use crate::kernel::programs::{Programs, Technique};
use crate::kernel::selection::Selection;
use crate::kernel::{Kernel, Limits};
use crate::lives::processes::{Followed, Processes};
use crate::lives::unwinding::Unwinding;
use crate::model::{Pid, Target, TraceMode, Unwind};
use crate::probes::plan::Seen;
use crate::process::facts;
use crate::process::launch::{Held, Launched};
use crate::process::maps::{CaptureError, ObjectStore};
use crate::process::pidfd::PidFd;
use crate::sources::allocators::{Found, Prober};

/// 64 MiB: the tables of a large program take 1 MiB, those of everything on a machine some 30.
const UNWIND_CHUNKS: u32 = 16_384;
/// How long set-up waits for the next file to be read or attached before it goes on without.
const PROGRESS_WITHIN: Duration = Duration::from_secs(30);
/// How long a command is held for its unwind tables, and how long tracing waits for those of running processes.
/// `LEAKTRACE_TABLES_WITHIN` says another number of seconds, so that tests need not hurry.
const TABLES_WITHIN: Duration = Duration::from_millis(500);

/// Everything up to the moment at which tracing begins. `held` takes a launched command as soon as it is stopped, and outlives
/// a failure, so that the command stays stopped until the caller decides what becomes of it.
///
/// May be cancelled. Much of it blocks (the kernel verifies programs, files and processes are read), so it runs on a thread of
/// its own.
pub(super) async fn set_up(
    config: &Arc<Config>,
    holder: &Arc<Holder>,
    launched: Option<&mut Launched>,
    held: &mut Option<Held>,
) -> Result<Trace> {
    let judged = launched.as_ref().map(|launched| launched.pid());
    let (loaded, holder) = (Arc::clone(config), Arc::clone(holder));
    let mut trace = aside(move || async move { Trace::new(loaded, holder, judged) }).await?;
    if let Some(launched) = launched {
        trace.target.pids = vec![launched.pid()];
        *held = Some(
            launched
                .hold_until_mapped()
                .await
                .map_err(|ending| anyhow::anyhow!("the command ended before it ran ({ending})"))?,
        );
    }
    aside(|| async {
        trace.probe_targets().await?;
        Ok(trace)
    })
    .await
}

impl Trace {
    fn new(config: Arc<Config>, holder: Arc<Holder>, judged: Option<Pid>) -> Result<Self> {
        let recording = &config.recording;
        let limits = Limits {
            max_allocs: recording.max_allocs,
            max_stacks: recording.max_stacks,
            max_depth: recording.max_depth,
            min_size: recording.min_size,
            max_size: recording.max_size.unwrap_or(u64::MAX),
            sample_bytes: match recording.seen {
                Seen::Calls => recording.sample_bytes.unwrap_or(0),
                Seen::Samples => BY_PROGRAMS,
            },
            unwind: match recording.unwind {
                Unwind::Auto | Unwind::Unknown => UNWIND_AUTO,
                Unwind::Dwarf => UNWIND_DWARF,
                Unwind::Fp => UNWIND_FP,
            },
            unwind_chunks: UNWIND_CHUNKS,
            judged,
            in_windows: recording.bursts.is_some(),
        };
        let selection = Selection::new(&config)?;
        let own = vec![Pid(std::process::id()), holder.pid()];
        let holder_ends = PidFd::open(holder.pid()).context("the process that sets probes is gone")?;
        // SAFETY: the pidfd owns its descriptor and keeps it to its end.
        let holder_ends = unsafe { AsyncFd::register_with_interest(holder_ends, Interest::READABLE) }
            .context("cannot wait for the process that sets probes")?;
        let mut kernel = Kernel::load(&object::bytes()?, &limits, &selection, Technique::chosen(), holder)?;
        if recording.bursts.is_some() && !matches!(kernel.programs, Programs::ByHand(_)) {
            bail!("--burst needs a kernel that sets many probes of a process at once (Linux 6.10); trace without it");
        }
        let events = Events::take(&mut kernel)?;
        // SAFETY: the ring owns its descriptor and keeps it to its end.
        let events = unsafe { AsyncFd::register(events) }.context("cannot wait for the programs' events")?;
        let followed = match (config.whom.is_named(), config.follow) {
            (true, true) => Followed::Descendants,
            (true, false) => Followed::Named,
            (false, _) => Followed::Everyone,
        };
        let Recording { symbols_prefixes, alloc_symbols, seen, .. } = recording;
        let prober = Prober::new(symbols_prefixes, alloc_symbols, *seen, version())?;
        let prober = if recording.bursts.is_some() { prober.in_windows() } else { prober };
        prober.heed_writers(kernel.holder.written().context("cannot ask which files are written to")?)?;
        Ok(Self {
            holder_ends,
            prober,
            processes: Processes::new(Arc::new(ObjectStore::new()), followed, own),
            unwinding: Unwinding::new(&mut kernel)?,
            kernel,
            events,
            discovery: Records::start()?,
            memory: MemoryReader::start()?,
            lost_records: 0,
            lost_by_the_end: None,
            made_up_records: 0,
            ends_before: 0,
            reclaim_at: None,
            reclaimed: Reclaimed::nothing(),
            has_halted: false,
            second_look: SecondLook::default(),
            untraced: UntracedProcesses::default(),
            ended_threads: Vec::new(),
            growth: Growth::default(),
            history: History::new(recording.warm_up, recording.sample_bytes.is_some()),
            bursting: recording.bursts.map(Bursting::new),
            alerts: Alerts::new(&config.alerts, &config.recording),
            left_out: 0,
            warnings: Vec::new(),
            target: config.target(),
            options: config.options(),
            config,
            started: Timestamp::now(),
            since: Instant::now(),
            sequence: 0,
        })
    }

    /// Probes the allocators of those that are to be traced, and has their unwind tables built.
    async fn probe_targets(&mut self) -> Result<()> {
        let config = Arc::clone(&self.config);
        match &config.whom {
            Whom::Command(_) | Whom::Pids(_) => {
                let pids = self.target.pids.clone();
                for pid in &pids {
                    self.probe_process(*pid).await?;
                }
                if matches!(config.whom, Whom::Pids(_)) {
                    self.probe_descendants(&pids).await;
                }
            }
            Whom::System => self.probe_system().await?,
            Whom::Filtered(filters) => {
                self.probe_system().await?;
                // Before those of all others, for which nobody waits.
                for life in growing::chosen(filters, &self.processes) {
                    self.unwinding.follow(&self.kernel, life.pid, &life.space);
                }
                self.until_tables_are_built().await?;
            }
        }
        self.follow_mappings();
        if config.whom.is_named() {
            // A command waits meanwhile, so that its first allocations have whole stacks; others run, unrecorded.
            self.until_tables_are_built().await?;
        }
        Ok(())
    }

    /// The command has executed another program: probes what is mapped now. May be cancelled.
    pub(super) async fn take_up(&mut self, pid: Pid) -> Result<()> {
        self.take_in();
        if let Err(error) = self.probe_process(pid).await {
            log::warn!("{error:#}");
        }
        self.follow_mappings();
        self.until_tables_are_built().await
    }

    /// Probes the allocators of one process, and has its descendants followed.
    pub(super) async fn probe_process(&mut self, pid: Pid) -> Result<()> {
        let scope = self.scope(pid);
        seccomp::check(Some(pid), scope == Scope::AllProcesses, self.config.force)?;
        if self.config.follow {
            // Before the look, which fails where the process has ended; if it ends later, the BPF programs forget it.
            self.kernel.follow(pid)?;
        }
        #[cfg(debug_assertions)]
        hang_at(pid);
        self.processes.look_at(pid)?;
        // Tables are built while probes are attached.
        self.follow_mappings();
        self.prober.request_all(&mut self.kernel, self.processes.look_at(pid)?, scope)?;
        self.processes.name(pid);
        self.probe_named(scope)?;
        self.until_probed().await?;
        // A process that has ended meanwhile is no error: the trace ends at once, with its report.
        if let Ok(space) = self.processes.look_at(pid) {
            let found = self.prober.found(space);
            if found.leak_sanitizer && found.seen == Seen::Samples {
                bail!(
                    "process {pid} has a sanitizer in it, which bears no other library before it; trace it without --sampler"
                );
            }
            if found.objects.is_empty() && found.foreign.is_some() {
                bail!("process {pid} cannot be traced: {}", found.untraceable().unwrap_or_default());
            }
            if found.objects.is_empty() && self.config.recording.objects.is_empty() {
                bail!("{}", nothing_to_probe(pid, &found));
            }
        }
        Ok(())
    }

    /// Probes the allocators of the processes that descend from these and run already, and has their descendants followed. What
    /// cannot be traced of them is no reason to trace nothing.
    async fn probe_descendants(&mut self, pids: &[Pid]) {
        let mut known = Vec::new();
        loop {
            let descendants = facts::descendants(pids);
            let new: Vec<Pid> = descendants.into_iter().filter(|pid| !known.contains(pid)).collect();
            if !self.config.follow {
                self.left_out = new.len();
                if self.left_out > 0 {
                    let are = if self.left_out == 1 {
                        "process that descends from those named is"
                    } else {
                        "processes that descend from those named are"
                    };
                    self.warnings.push(format!("{} running {are} left out (--no-follow)", self.left_out));
                }
                return;
            }
            // Each is followed before its own children are looked for: those that it makes from then on are followed too.
            if new.is_empty() {
                return;
            }
            for pid in new {
                known.push(pid);
                if let Err(error) = self.probe_descendant(pid).await {
                    // A process that has ended meanwhile has no name any more.
                    match facts::identity(pid) {
                        Some(identity) => self.untraced.refused(pid, &identity.comm, format!("{error:#}")),
                        None => log::info!("process {pid}: {error:#}"),
                    }
                }
            }
        }
    }

    async fn probe_descendant(&mut self, pid: Pid) -> Result<()> {
        let scope = self.scope(pid);
        seccomp::check(Some(pid), scope == Scope::AllProcesses, self.config.force)?;
        self.kernel.follow(pid)?;
        let space = self.processes.look_at(pid)?;
        self.prober.request_all(&mut self.kernel, space, scope)?;
        self.follow_mappings();
        self.until_probed().await
    }

    /// Probes the allocators of every process.
    async fn probe_system(&mut self) -> Result<()> {
        seccomp::check(None, true, self.config.force)?;
        self.request_system()?;
        self.probe_named(Scope::AllProcesses)?;
        self.until_probed().await?;
        if self.prober.is_empty() {
            bail!("no running process has an allocator that we know; name one with --object PATH");
        }
        Ok(())
    }

    pub(super) fn request_system(&mut self) -> Result<()> {
        let own = [Pid(std::process::id()), self.kernel.holder.pid()];
        for process in procfs::process::all_processes().context("cannot list the processes in /proc")? {
            let Ok(process) = process else { continue };
            let pid = Pid(process.pid as u32);
            if own.contains(&pid) {
                continue;
            }
            let space = match self.processes.look_at(pid) {
                Ok(space) => space,
                // Kernel threads have no mappings, others end meanwhile.
                Err(CaptureError::Ended(_)) => continue,
                Err(error) => {
                    self.untraced.unseen(pid, &error);
                    continue;
                }
            };
            if let Err(error) = self.prober.request_all(&mut self.kernel, space, Scope::AllProcesses) {
                log::warn!("{error:#}");
            }
        }
        Ok(())
    }

    /// Waits until everything requested is probed, or found not to need it.
    async fn until_probed(&mut self) -> Result<()> {
        let mut stalled = Instant::now() + PROGRESS_WITHIN;
        while !self.prober.is_idle() {
            tokio::select! {
                () = sleep_until(stalled.into()) => {
                    self.warn_of_stall();
                    break;
                }
                progress = self.prober.progress() => {
                    stalled = Instant::now() + PROGRESS_WITHIN;
                    match self.prober.settle(&mut self.kernel, progress) {
                        // One process' file is not to keep the whole machine from being traced.
                        Err(error) if !self.config.whom.is_named() => log::warn!("{error:#}"),
                        settled => settled?,
                    }
                }
                built = self.unwinding.built() => self.unwinding.take(&self.kernel, built),
                ready = self.discovery.ready() => {
                    ready.context("cannot wait for the kernel's records")?;
                    self.take_in();
                }
            }
        }
        Ok(())
    }

    /// Tracing begins without the files that are stuck; they are probed when they have been read.
    fn warn_of_stall(&mut self) {
        let files: Vec<_> = self.prober.being_planned().map(|path| path.display().to_string()).collect();
        let what = match files.as_slice() {
            [] => "probes are still being attached".to_owned(),
            [file] => format!("{file} is still being read"),
            [file, others @ ..] => format!("{file} and {} other files are still being read", others.len()),
        };
        self.warnings.push(format!(
            "{what} after {} s without progress: allocations there are missing until then; is a file system or the disk stuck?",
            PROGRESS_WITHIN.as_secs()
        ));
        log::warn!("{}", self.warnings.last().map_or("", String::as_str));
    }

    /// Waits for the unwind tables that were asked for, for a while.
    pub(super) async fn until_tables_are_built(&mut self) -> Result<()> {
        let deadline = Instant::now() + tables_within();
        while self.unwinding.is_building() {
            tokio::select! {
                built = self.unwinding.built() => self.unwinding.take(&self.kernel, built),
                ready = self.discovery.ready() => {
                    ready.context("cannot wait for the kernel's records")?;
                    self.take_in();
                }
                () = sleep_until(deadline.into()) => break,
            }
        }
        Ok(())
    }

    fn probe_named(&mut self, scope: Scope) -> Result<()> {
        for path in &self.config.recording.objects {
            self.prober.probe_file(&mut self.kernel, path, scope)?;
        }
        Ok(())
    }

    /// All probes are in place: time runs from here, and so do records.
    pub(super) fn begin(&mut self, held: Option<Held>) -> Result<()> {
        self.prober.tell(self.processes.spaces());
        self.watch_growth_within(growing::AT_FIRST);
        self.started = Timestamp::now();
        self.since = Instant::now();
        self.untraced.begin(monotonic_ns()?);
        self.kernel.start()?;
        if !self.config.messages.quiet {
            eprintln!("leaktrace: tracing {}; Ctrl-C ends it with a report", clean(&whom(&self.target)));
        }
        if let Some(held) = held {
            self.let_go(held, self.target.pids.first().copied());
        }
        Ok(())
    }

    /// Lets the command run its program. LeakSanitizer needs ptrace on its own process, which has room for one tracer: a
    /// command with it is not traced by ptrace any longer.
    pub(super) fn let_go(&mut self, held: Held, pid: Option<Pid>) {
        if let Some(pid) = pid {
            self.processes.held(pid);
        }
        self.watch_growth();
        let space = pid.and_then(|pid| self.processes.look_at(pid).ok());
        if space.is_some_and(|space| self.prober.found(space).leak_sanitizer) {
            held.leave_alone();
        } else {
            held.release();
        }
    }
}

/// Does not come back where `LEAKTRACE_LOOK_HANGS` names the process: so that tests see what becomes of a set-up that blocks.
#[cfg(debug_assertions)]
fn hang_at(pid: Pid) {
    while std::env::var("LEAKTRACE_LOOK_HANGS").is_ok_and(|named| named == pid.to_string()) {
        log::info!("process {pid} is not looked at, since a test wants it");
        std::thread::park();
    }
}

fn tables_within() -> Duration {
    let seconds = std::env::var("LEAKTRACE_TABLES_WITHIN").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(TABLES_WITHIN, Duration::from_secs)
}

fn whom(target: &Target) -> String {
    match (target.command.first(), target.pids.as_slice()) {
        (Some(command), _) => command.clone(),
        (None, []) if target.mode == TraceMode::Filter => "every process that matches".to_owned(),
        (None, []) => "every process".to_owned(),
        (None, [pid]) => format!("process {pid}"),
        (None, pids) => format!("{} processes", pids.len()),
    }
}

fn nothing_to_probe(pid: Pid, found: &Found) -> String {
    if found.seen == Seen::Samples {
        return format!(
            "process {pid} has not loaded the sampler: it is static, or drops its environment or its user; trace it without --sampler"
        );
    }
    if let Some(runtime) = found.runtimes.first() {
        return format!("no allocator was found in process {pid}, which is run by {runtime}; {}", runtime.note());
    }
    match found.hidden.first() {
        Some((path, allocator)) => format!(
            "process {pid} has {allocator} in {} without symbols to find it by; install a build that is not stripped",
            path.display()
        ),
        None => format!(
            "no allocator that we know was found in process {pid}; name its file with --object PATH, or its functions' \
             prefix with --symbols-prefix"
        ),
    }
}
