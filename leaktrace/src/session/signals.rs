//! The user's wish to end: the first signal is handed on, the second ends the program at once.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Signals that ask for an end.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they no longer end the program by themselves.
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The first; any later one ends the program with the status of a program that it killed. The kernel removes our
    /// probes then.
    pub async fn next(&mut self) -> i32 {
        let first = self.receive().await;
        if let Ok(mut again) = Self::listen() {
            tokio::spawn(async move {
                let second = again.receive().await;
                std::process::exit(128 + second);
            });
        }
        first
    }

    async fn receive(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => libc::SIGINT,
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.hangup.recv() => libc::SIGHUP,
        }
    }
}
