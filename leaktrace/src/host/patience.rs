//! Asking what may never answer: a file system that other users serve (FUSE), or whose server is gone, holds whoever asks for
//! ever.
//!
//! In: a question, and what it is about. Out: its answer, or none in time. **Never** a thread of ours that waits
//! longer: the question stays behind in a thread of its own, and is not asked
//! again.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Whom a question is about: it is asked of no file of a device, or only not of one file, again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A device by its `st_dev`.
    Device(u64),
    /// A file by its `st_dev` and `st_ino`.
    File(u64, u64),
    /// A process.
    Process(u32),
}

/// Those that did not answer.
static SILENT: Mutex<Vec<About>> = Mutex::new(Vec::new());
/// Questions that may stay behind. Beyond them nothing is asked in this way any more.
const MAX_LEFT: usize = 256;

/// The answer to a question; `None` where it does not come in time, or none came before.
///
/// # Panics
/// As the question does.
pub fn within<T: Send + 'static>(
    time: Duration,
    about: About,
    question: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let silent = || SILENT.lock().unwrap_or_else(PoisonError::into_inner);
    let is_silent = {
        let silent = silent();
        silent.contains(&about) || silent.len() >= MAX_LEFT
    };
    if is_silent {
        return None;
    }
    let (sender, answer) = sync_channel(1);
    let ask = move || drop(sender.send(catch_unwind(AssertUnwindSafe(question))));
    // Without a thread nothing can be asked.
    thread::Builder::new().name("patience".to_owned()).spawn(ask).ok()?;
    match answer.recv_timeout(time) {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => {
            silent().push(about);
            None
        }
    }
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
}
