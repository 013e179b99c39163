//! Threads that run jobs of one kind, so that whoever orders a job need not wait.
//!
//! In: jobs. Out: a result for each, in order of completion, on a channel that blocking and asynchronous code can wait for.
//! **Never** a job without a result: a job that panics is reported as failed, and its thread goes on with the next.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{any, io, thread};

/// Starts `count` threads of this name, which end when the sender of jobs is dropped. `work` does a job; `failed` says what
/// comes of one at which it panicked, with the panic's message.
///
/// # Errors
/// No thread can be made.
pub fn start<J, R>(
    name: &str,
    count: usize,
    results: &async_channel::Sender<R>,
    work: impl Fn(&J) -> R + Clone + Send + 'static,
    failed: impl Fn(&J, String) -> R + Clone + Send + 'static,
) -> io::Result<Sender<J>>
where
    J: Send + 'static,
    R: Send + 'static,
{
    let (jobs, incoming) = channel::<J>();
    let incoming = Arc::new(Mutex::new(incoming));
    for _ in 0..count {
        let (incoming, results) = (Arc::clone(&incoming), results.clone());
        let (work, failed) = (work.clone(), failed.clone());
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Some(job) = next(&incoming) {
                let result = catch_unwind(AssertUnwindSafe(|| work(&job)))
                    .unwrap_or_else(|panic| failed(&job, message(panic.as_ref())));
                // An error means that the trace is over and nobody waits any more.
                if results.send_blocking(result).is_err() {
                    return;
                }
            }
        })?;
    }
    Ok(jobs)
}

fn next<J>(jobs: &Mutex<Receiver<J>>) -> Option<J> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// What a panic said.
pub fn message(panic: &(dyn any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no reason given".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_has_a_result_also_those_that_panic() {
        let (sender, results) = async_channel::unbounded();
        let work = |job: &u32| if job.is_multiple_of(3) { panic!("no {job}") } else { Ok(*job) };
        let jobs = start("test", 2, &sender, work, |job, message| Err((*job, message))).unwrap();
        for job in 0..30 {
            jobs.send(job).unwrap();
        }
        let mut done: Vec<_> = (0..30).map(|_| results.recv_blocking().unwrap()).collect();
        done.sort();
        let expected = |job: u32| if job.is_multiple_of(3) { Err((job, format!("no {job}"))) } else { Ok(job) };
        let mut all: Vec<_> = (0..30).map(expected).collect();
        all.sort();
        assert_eq!(done, all);
    }
}
