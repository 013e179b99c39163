//! Debug information from debuginfod servers, for `--debuginfod`: asked for by build id, checked, and kept where other clients
//! look too.
//!
//! In: objects. Out: files with the objects' build ids. Threads ask the servers, so that an order does not block; no server
//! is waited for beyond the limits. **Never** a file under a build id that is not its own.

mod cache;
mod settings;
mod transfer;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use self::cache::Cache;
use self::transfer::{Transfer, Trouble};
use super::debugfile;
use crate::process::maps::Object;
use crate::workers;

pub use settings::Settings;

/// Downloads at a time.
const THREADS: usize = 4;
/// Files asked for in one run: the largest programs map some hundred libraries.
const MAX_FILES: usize = 256;
/// Bytes fetched in one run.
const MAX_TOTAL: u64 = 4 << 30;
/// How often a waiting caller checks for answers, and for a signal of the user.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The orders so far, and their results.
pub struct Debuginfod {
    jobs: Sender<Job>,
    results: async_channel::Receiver<(String, Outcome)>,
    /// By build id; `None` until it is answered.
    answers: HashMap<String, Option<Outcome>>,
    /// Objects beyond [`MAX_FILES`].
    beyond: u64,
    longest: Duration,
    stop: Arc<AtomicBool>,
}

struct Job {
    id: String,
    object: Arc<Object>,
}

/// What came of asking for one build id.
#[derive(Debug)]
enum Outcome {
    Found(Arc<File>),
    /// No server has it.
    Unknown,
    /// No server gave it; the error of one of them.
    Failed(String),
    /// The user, or the total limits, ended the download.
    LeftOut,
}

impl Debuginfod {
    /// Starts the threads that ask these servers.
    ///
    /// Errors: threads cannot be started.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let longest = settings.longest;
        let fetcher = Arc::new(Fetcher::new(settings, Arc::clone(&stop)));
        let (sender, results) = async_channel::unbounded();
        let work = move |job: &Job| (job.id.clone(), fetcher.fetch(job));
        let failed = |job: &Job, message| (job.id.clone(), Outcome::Failed(message));
        let jobs = workers::start("debuginfod", THREADS, &sender, work, failed)?;
        Ok(Self { jobs, results, answers: HashMap::new(), beyond: 0, longest, stop })
    }

    /// Set it to end all waiting: files that have not arrived by then are left out.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Orders an object's debug information, unless that was done before. An object without a build id is ignored.
    pub fn order(&mut self, object: &Arc<Object>) {
        let Some(id) = object.build_id().map(hex).filter(|id| !self.answers.contains_key(id)) else { return };
        if self.answers.len() >= MAX_FILES {
            self.beyond += 1;
            return;
        }
        let sent = self.jobs.send(Job { id: id.clone(), object: Arc::clone(object) });
        self.answers.insert(id, sent.is_err().then_some(Outcome::LeftOut));
    }

    /// The file that was fetched for an object.
    pub fn file(&mut self, object: &Object) -> Option<Arc<File>> {
        self.take_in();
        match self.answers.get(&hex(object.build_id()?)) {
            Some(Some(Outcome::Found(file))) => Some(Arc::clone(file)),
            _ => None,
        }
    }

    /// Waits until all orders are answered, at most for the time that one transfer may take.
    pub fn wait(&mut self) {
        let deadline = Instant::now() + self.longest;
        loop {
            self.take_in();
            let open = self.answers.values().filter(|answer| answer.is_none()).count();
            if open == 0 {
                return;
            }
            if self.stop.load(Ordering::Relaxed) || Instant::now() >= deadline {
                // Threads in a transfer end with the program; the others start no further transfer.
                self.stop.store(true, Ordering::Relaxed);
                self.answers.values_mut().filter(|answer| answer.is_none()).for_each(|it| *it = Some(Outcome::LeftOut));
                return;
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// How many files did not come although a server may have them, and why; `None` where there are none.
    pub fn failures(&self) -> Option<String> {
        let answers = || self.answers.values().flatten();
        let count = |is_it: fn(&Outcome) -> bool| answers().filter(|it| is_it(it)).count() as u64;
        let failed = count(|it| matches!(it, Outcome::Failed(_)));
        let left_out = count(|it| matches!(it, Outcome::LeftOut)) + self.beyond;
        let found = count(|it| matches!(it, Outcome::Found(_)));
        let all = self.answers.len() as u64 + self.beyond;
        log::info!("debuginfod: {all} debug files asked for, {found} came, {failed} failed, {left_out} left out");
        if failed + left_out == 0 {
            return None;
        }
        // Of several reasons the alphabetically first, so that the message is the same each time.
        let why = answers().filter_map(|it| if let Outcome::Failed(why) = it { Some(why) } else { None }).min();
        let why = why.map_or_else(String::new, |why| format!(" ({why})"));
        let left_out = if left_out == 0 { String::new() } else { format!(", {left_out} left out") };
        let files = if all == 1 { "file" } else { "files" };
        Some(format!("debuginfod: {all} debug {files} asked for, {found} came, {failed} failed{why}{left_out}"))
    }

    fn take_in(&mut self) {
        while let Ok((id, outcome)) = self.results.try_recv() {
            self.answers.insert(id, Some(outcome));
        }
    }
}

/// What the threads share.
struct Fetcher {
    servers: Vec<Server>,
    cache: Cache,
    transfer: Transfer,
    fetched: AtomicU64,
    stop: Arc<AtomicBool>,
}

struct Server {
    url: String,
    /// Whether the server cannot be reached: it is not asked again.
    gone: AtomicBool,
}

impl Fetcher {
    fn new(settings: Settings, stop: Arc<AtomicBool>) -> Self {
        let transfer = Transfer::new(&settings, Arc::clone(&stop));
        let servers = settings.urls.into_iter().map(|url| Server { url, gone: AtomicBool::new(false) }).collect();
        Self { servers, cache: Cache::new(settings.cache), transfer, fetched: AtomicU64::new(0), stop }
    }

    fn fetch(&self, job: &Job) -> Outcome {
        if let Some(file) = self.cache.open(&job.id).map(Arc::new)
            && debugfile::belongs(&job.object, &file)
        {
            return Outcome::Found(file);
        }
        let mut failed = None;
        for server in &self.servers {
            if self.stop.load(Ordering::Relaxed) || self.fetched.load(Ordering::Relaxed) >= MAX_TOTAL {
                return Outcome::LeftOut;
            }
            let named = without_credentials(&server.url);
            if server.gone.load(Ordering::Relaxed) {
                failed.get_or_insert_with(|| format!("{named} did not answer before"));
                continue;
            }
            match self.ask(server, job) {
                Ok(Some(file)) if debugfile::belongs(&job.object, &file) => {
                    self.cache.keep(&job.id, &file);
                    return Outcome::Found(file);
                }
                Ok(Some(_)) => {
                    failed = Some(format!("{named} gave what is no debug information of build id {}", job.id));
                }
                Ok(None) => {}
                Err(Trouble::Stopped) => return Outcome::LeftOut,
                Err(Trouble::Unreachable(why)) => {
                    server.gone.store(true, Ordering::Relaxed);
                    failed = Some(format!("{named}: {why}"));
                }
                Err(Trouble::Refused(why)) => failed = Some(format!("{named}: {why}")),
            }
        }
        failed.map_or(Outcome::Unknown, Outcome::Failed)
    }

    fn ask(&self, server: &Server, job: &Job) -> Result<Option<Arc<File>>, Trouble> {
        let url = format!("{}/buildid/{}/debuginfo", server.url, job.id);
        let room =
            || self.cache.room(&job.id).map_err(|error| Trouble::Refused(format!("no room for its file: {error}")));
        let Some((file, bytes)) = self.transfer.get(&url, room)? else { return Ok(None) };
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
        log::info!("debuginfod: {bytes} bytes of debug information of {}", job.object.path().display());
        Ok(Some(Arc::new(file)))
    }
}

/// As it stands in paths and requests.
pub fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// A URL that may be shown.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or(authority);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_not_shown() {
        assert_eq!(without_credentials("https://me:secret@debug.example:80/a@b"), "https://debug.example:80/a@b");
        assert_eq!(without_credentials("https://debug.example"), "https://debug.example");
    }

    #[test]
    fn failures_are_counted_and_explained_in_one_line() {
        let mut debuginfod = Debuginfod::start(Settings::from_variables(&|_| None)).unwrap();
        assert_eq!(debuginfod.failures(), None);
        for (id, outcome) in [
            ("a", Outcome::Unknown),
            ("b", Outcome::Failed("http://y: z".to_owned())),
            ("c", Outcome::Failed("http://x: no".to_owned())),
            ("d", Outcome::LeftOut),
        ] {
            debuginfod.answers.insert(id.to_owned(), Some(outcome));
        }
        debuginfod.beyond = 2;
        let line = "debuginfod: 6 debug files asked for, 0 came, 2 failed (http://x: no), 3 left out";
        assert_eq!(debuginfod.failures().as_deref(), Some(line));
    }
}
