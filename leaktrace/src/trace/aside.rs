//! Work that blocks, on a thread of its own, so that a signal is heard meanwhile.
//!
//! In: the work. Out: its result; a panic is an error. Work whose result is no longer wanted is dropped at its next await
//! point; work that blocks for good keeps its thread until the program ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::runtime::Handle;

use crate::workers;

/// How long cancelled work is waited for: system calls that return within this time end in order.
const MOMENT: Duration = Duration::from_millis(100);

/// Does the work on a thread of its own.
///
/// # Errors
/// Those of the work, also where it panics, or there is no thread.
pub async fn aside<T, F>(work: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    let runtime = Handle::current();
    let (sender, result) = async_channel::bounded(1);
    let (wanted, unwanted) = async_channel::bounded::<()>(1);
    let (ends, ended) = mpsc::channel::<()>();
    let body = move || {
        let _ends = ends;
        let done = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // Nothing is ever sent: the other end is gone.
                    _ = unwanted.recv() => None,
                    done = work() => Some(done),
                }
            })
        }));
        let failed = |panic: Box<dyn std::any::Any + Send>| {
            Some(Err(anyhow!("setting up the trace failed ({}); please report this", workers::message(panic.as_ref()))))
        };
        if let Some(done) = done.unwrap_or_else(failed) {
            let _ = sender.send_blocking(done);
        }
    };
    thread::Builder::new().name("set-up".to_owned()).spawn(body).context("cannot start the thread that sets up")?;
    let _waiting = Waiting { wanted, ended };
    result.recv().await.unwrap_or_else(|_| Err(anyhow!("the thread that sets up has ended; please report this")))
}

/// While it lives, the work is wanted.
struct Waiting {
    wanted: async_channel::Sender<()>,
    ended: mpsc::Receiver<()>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.wanted.close();
        // Nothing is ever sent: it ends with an error as soon as the thread does.
        let _ = self.ended.recv_timeout(MOMENT);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn results_errors_and_panics_are_handed_back() {
        let runtime = runtime();
        assert_eq!(runtime.block_on(aside(|| async { Ok(7) })).unwrap(), 7);
        let failed = runtime.block_on(aside(|| async { Err::<(), _>(anyhow!("no room")) }));
        assert_eq!(failed.unwrap_err().to_string(), "no room");
        let panicked = runtime.block_on(aside(|| async { if true { panic!("seven") } else { Ok(()) } }));
        assert!(panicked.unwrap_err().to_string().contains("(seven)"));
    }

    /// Says that it was dropped.
    struct Dropped(Arc<AtomicBool>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn work_that_waits_is_dropped_when_nobody_waits_for_it() {
        let is_dropped = Arc::new(AtomicBool::new(false));
        let held = Dropped(Arc::clone(&is_dropped));
        let (begun, begins) = async_channel::bounded(1);
        runtime().block_on(async {
            let work = aside(move || async move {
                let _held = held;
                let _ = begun.send(()).await;
                std::future::pending::<Result<()>>().await
            });
            tokio::select! {
                _ = work => unreachable!("it waits for ever"),
                begun = begins.recv() => begun.unwrap(),
            }
        });
        // By the thread, for which nobody waits longer than a moment.
        while !is_dropped.load(Ordering::Relaxed) {
            thread::yield_now();
        }
    }

    #[test]
    fn work_that_blocks_is_left_behind() {
        let (begun, begins) = async_channel::bounded(1);
        let (release, released) = mpsc::channel::<()>();
        runtime().block_on(async {
            let work = aside(move || async move {
                begun.send_blocking(()).unwrap();
                let _ = released.recv();
                Ok(())
            });
            tokio::select! {
                _ = work => unreachable!("it blocks until it is released"),
                begun = begins.recv() => begun.unwrap(),
            }
        });
        drop(release);
    }
}
