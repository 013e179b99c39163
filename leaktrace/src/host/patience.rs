//! Calls that may never return: a file system that other users serve (FUSE), or whose server is gone, may block a call for
//! ever.
//!
//! In: a question, which is such a call, and what it is about. Out: its answer, or `None` after some time. The caller **never**
//! waits longer: the question is left in a thread of its own, and until it is answered nothing else is asked about the same.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// What a question is about. While one has no answer, no other is asked about the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A device by its `st_dev`.
    Device(u64),
    /// A file by its `st_dev` and `st_ino`, or what lies below a directory.
    File(u64, u64),
    /// A process.
    Process(u32),
}

impl About {
    /// The file system of a file, or the file. A file system without a block device (major 0) may be served by a process, and is
    /// given up as a whole; on a slow disk only the file is.
    #[must_use]
    pub fn file_system(device: u64, inode: u64) -> Self {
        if libc::major(device) == 0 { Self::Device(device) } else { Self::File(device, inode) }
    }

    /// Whether nothing can be known of `other` while there is no answer to a question about this.
    fn covers(self, other: Self) -> bool {
        self == other || matches!((self, other), (Self::Device(device), Self::File(of, _)) if device == of)
    }
}

/// How long a file system may take to open a file and give its headers, or another short answer, while everything else waits.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

/// How long a file may take to be read; then its file system is taken not to answer. In debug builds `LEAKTRACE_READ_WITHIN` says
/// another time, in milliseconds.
#[must_use]
pub fn read_within() -> Duration {
    let minute = Duration::from_mins(1);
    if cfg!(debug_assertions) {
        let other = std::env::var("LEAKTRACE_READ_WITHIN").ok().and_then(|time| time.parse().ok());
        return other.map_or(minute, Duration::from_millis);
    }
    minute
}

/// [`within`] the time of a short answer, for questions that may fail: no answer is an error as well.
///
/// # Errors
/// Those of the question, and `TimedOut`.
pub fn answer<T: Send + 'static>(
    about: About,
    question: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    within(ANSWERS_WITHIN, about, question)
        .unwrap_or_else(|| Err(io::Error::new(io::ErrorKind::TimedOut, "its file system does not answer")))
}

/// What late questions are about: an entry for each thread that was left behind with its question.
static SILENT: Mutex<Vec<About>> = Mutex::new(Vec::new());
/// Threads left behind, at most. Beyond them nothing is asked in this way until one of them has its answer.
const MAX_LEFT: usize = 256;

/// The answer to a question; `None` where it does not come in time, or an earlier one is still waited for.
///
/// # Panics
/// As the question does.
pub fn within<T: Send + 'static>(
    time: Duration,
    about: About,
    question: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let is_silent = {
        let silent = silent();
        silent.iter().any(|late| late.covers(about)) || silent.len() >= MAX_LEFT
    };
    if is_silent {
        return None;
    }
    let (sender, answer) = sync_channel(1);
    let ask = move || {
        let result = catch_unwind(AssertUnwindSafe(question));
        let mut silent = silent();
        // Nobody waits any more.
        if sender.send(result).is_err()
            && let Some(index) = silent.iter().position(|late| *late == about)
        {
            silent.swap_remove(index);
        }
    };
    // Without a thread nothing can be asked.
    thread::Builder::new().name("patience".to_owned()).spawn(ask).ok()?;
    let answered = answer.recv_timeout(time).or_else(|_| {
        let mut silent = silent();
        // With the lock held, the answer is either here already or will find the receiver gone.
        answer.try_recv().inspect_err(|_| silent.push(about)).inspect_err(|_| drop(answer))
    });
    match answered.ok()? {
        Ok(answer) => Some(answer),
        Err(panic) => resume_unwind(panic),
    }
}

fn silent() -> MutexGuard<'static, Vec<About>> {
    SILENT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_does_not_answer_is_asked_once() {
        let minute = Duration::from_mins(1);
        // Numbers that no device has.
        assert_eq!(within(minute, About::Device(u64::MAX), || 7), Some(7));
        assert_eq!(
            within(Duration::from_millis(10), About::Device(u64::MAX), move || thread::park_timeout(minute)),
            None
        );
        let asked = Instant::now();
        assert_eq!(within(minute, About::Device(u64::MAX), || 7), None);
        assert!(asked.elapsed() < minute);
        assert_eq!(within(minute, About::Device(u64::MAX - 1), || 8), Some(8));
    }

    #[test]
    fn a_file_of_a_device_that_does_not_answer_is_not_asked() {
        let (device, minute) = (u64::MAX - 3, Duration::from_mins(1));
        let park = move || thread::park_timeout(minute);
        assert_eq!(within(Duration::from_millis(10), About::Device(device), park), None);
        assert_eq!(within(minute, About::File(device, 1), || 7), None);
        assert_eq!(answer(About::File(device, 1), || Ok(7)).unwrap_err().kind(), io::ErrorKind::TimedOut);
        // What is known of one file says nothing of the others.
        assert_eq!(within(Duration::from_millis(10), About::File(device - 1, 1), park), None);
        assert_eq!(within(minute, About::File(device - 1, 2), || 7), Some(7));
        assert_eq!(within(minute, About::Device(device - 1), || 7), Some(7));
    }

    #[test]
    fn who_has_answered_late_is_asked_again() {
        let about = About::Device(u64::MAX - 2);
        let (answer, question) = sync_channel::<()>(0);
        assert_eq!(within(Duration::from_millis(10), about, move || question.recv().is_ok()), None);
        assert!(silent().contains(&about));
        answer.send(()).unwrap();
        while silent().contains(&about) {
            thread::yield_now();
        }
        assert_eq!(within(Duration::from_mins(1), about, || 7), Some(7));
    }
}
