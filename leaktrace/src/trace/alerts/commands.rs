//! The commands that alerts run: how many at a time, how they end, and which processes are theirs.
//!
//! In: what a command is to be run for, and the kernel's records of forks. Out: processes, each started and waited for by a thread
//! of its own, and warnings. Never blocks the trace: it takes a lock that nobody holds for longer than a moment.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::course::Kind;
use crate::model::Pid;
use crate::process::launch::Ending;
use crate::process::launch::background;

/// Commands that run at the same time, at most.
const AT_A_TIME: usize = 8;
/// How long a command's processes are still known as its own after its end: what it leaves running, such as a service that it has
/// started again, is a process like any other then.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Processes of commands that are known at a time, at most.
const MAX_FAMILY: usize = 1 << 16;
/// How long commands that run are waited for at the end of the trace.
const AT_THE_END: Duration = Duration::from_secs(1);
/// How often it is looked then.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a command is run for.
pub(super) type About = (Pid, Kind);

/// Why none is run. The texts are parts of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotRun {
    #[error("that of its last alert still runs")]
    StillRuns,
    #[error("{AT_A_TIME} run already, which is the most")]
    TooMany,
    #[error("no thread can be started for it")]
    NoThread,
}

/// A command that was started, or is about to be.
struct Run {
    number: u64,
    about: About,
    pid: Option<Pid>,
    ended: Option<Instant>,
}

/// What the trace and the threads share.
#[derive(Default)]
struct Shared {
    runs: Vec<Run>,
    failures: Vec<(About, String)>,
}

/// The commands.
pub(super) struct Commands {
    words: Option<Arc<Vec<OsString>>>,
    started: u64,
    shared: Arc<Mutex<Shared>>,
    /// The processes that descend from commands, with the number of the run.
    family: HashMap<Pid, u64>,
}

impl Commands {
    /// Of these words; `None` where none is to be run. Warns where there is no such program by now.
    pub(super) fn new(words: Option<Vec<OsString>>) -> Self {
        if let Some(Err(error)) = words.as_deref().map(background::check) {
            log::warn!("--on-alert: {error}");
        }
        Self { words: words.map(Arc::new), started: 0, shared: Arc::default(), family: HashMap::new() }
    }

    /// Runs one, if there is any to be run. `name` is what it is about, for messages.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn run(
        &mut self,
        about: About,
        name: &str,
        variables: impl FnOnce() -> Vec<(&'static str, OsString)>,
    ) -> Result<(), NotRun> {
        let Some(words) = self.words.clone() else { return Ok(()) };
        let mut shared = lock(&self.shared);
        let running = || shared.runs.iter().filter(|run| run.ended.is_none());
        if running().any(|run| run.about == about) {
            return Err(NotRun::StillRuns);
        }
        if running().count() >= AT_A_TIME {
            return Err(NotRun::TooMany);
        }
        self.started += 1;
        let number = self.started;
        shared.runs.push(Run { number, about, pid: None, ended: None });
        drop(shared);
        let (variables, name, theirs) = (variables(), name.to_owned(), Arc::clone(&self.shared));
        let body = move || see_through(&words, &variables, &theirs, number, (about, &name));
        let spawned = thread::Builder::new().name("alert".to_owned()).spawn(body);
        spawned.map(drop).map_err(|_| {
            lock(&self.shared).runs.retain(|run| run.number != number);
            NotRun::NoThread
        })
    }

    /// Takes note of a process that another has made.
    pub(super) fn forked(&mut self, pid: Pid, parent: Pid) {
        if self.started == 0 {
            return;
        }
        self.forget();
        match self.run_of(parent) {
            Some(number) if self.family.len() < MAX_FAMILY => self.family.insert(pid, number),
            _ => self.family.remove(&pid),
        };
    }

    /// Whether a process is a command's, or was until a moment ago.
    pub(super) fn have(&mut self, pid: Pid) -> bool {
        if self.started == 0 {
            return false;
        }
        self.forget();
        self.run_of(pid).is_some()
    }

    /// Forgets the runs that have ended a while ago, with their processes.
    fn forget(&mut self) {
        let runs = &mut lock(&self.shared).runs;
        let before = runs.len();
        runs.retain(|run| run.ended.is_none_or(|ended| ended.elapsed() < REMEMBERED));
        if runs.len() < before {
            self.family.retain(|_, number| runs.iter().any(|run| run.number == *number));
        }
    }

    /// The run that a process belongs to.
    fn run_of(&self, pid: Pid) -> Option<u64> {
        let shared = lock(&self.shared);
        let itself = shared.runs.iter().find(|run| run.pid == Some(pid)).map(|run| run.number);
        itself.or_else(|| self.family.get(&pid).copied())
    }

    /// What has gone wrong since this was last called.
    pub(super) fn failures(&self) -> Vec<(About, String)> {
        std::mem::take(&mut lock(&self.shared).failures)
    }

    /// Waits a little for those that run. They go on if that is not enough.
    pub(super) async fn part(&self) {
        let until = Instant::now() + AT_THE_END;
        let running = || -> Vec<Option<Pid>> {
            let shared = lock(&self.shared);
            shared.runs.iter().filter(|run| run.ended.is_none()).map(|run| run.pid).collect()
        };
        while !running().is_empty() && Instant::now() < until {
            sleep(LOOK_AGAIN).await;
        }
        for pid in running().into_iter().flatten() {
            log::info!("the command of --on-alert goes on as process {pid}");
        }
    }
}

/// Runs a command to its end, on a thread of its own.
fn see_through(
    words: &[OsString],
    variables: &[(&str, OsString)],
    shared: &Mutex<Shared>,
    number: u64,
    (about, name): (About, &str),
) {
    let begun = |pid| {
        if let Some(run) = lock(shared).runs.iter_mut().find(|run| run.number == number) {
            run.pid = Some(pid);
        }
    };
    let failure = match background::start(words, variables, begun) {
        Ok(started) => match started.wait() {
            Some(Ending::Exited(0)) | None => None,
            Some(ending) => Some(format!("the command of --on-alert for {name} ended: {ending}")),
        },
        Err(error) => Some(format!("the command of --on-alert for {name} did not run: {error}")),
    };
    // Before the lock: whoever reads it may be slow.
    if let Some(failure) = &failure {
        log::warn!("{failure}");
    }
    let mut shared = lock(shared);
    shared.failures.extend(failure.map(|failure| (about, failure)));
    if let Some(run) = shared.runs.iter_mut().find(|run| run.number == number) {
        run.ended = Some(Instant::now());
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
