//! Waiting for what the kernel records.

use std::io;
use std::ops::{Deref, DerefMut};

use anyhow::{Context, Result};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::lives::discovery::Discovery;

/// The rings of all CPUs, which can be waited for.
pub struct Records(AsyncFd<Discovery>);

impl Records {
    /// Records everything from now on.
    ///
    /// # Errors
    /// The kernel does not let us.
    pub fn start() -> Result<Self> {
        // SAFETY: what is waited for owns its descriptor and keeps it to its end.
        let waited_for = unsafe { AsyncFd::register_with_interest(Discovery::start()?, Interest::READABLE) };
        waited_for.map(Self).context("cannot wait for records of mappings")
    }

    /// Waits until there is something to read. May be cancelled.
    ///
    /// # Errors
    /// None that is expected.
    pub async fn ready(&mut self) -> io::Result<()> {
        if !self.0.get_ref().has_more() {
            self.0.readable().await?.clear_ready();
        }
        Ok(())
    }
}

impl Deref for Records {
    type Target = Discovery;

    fn deref(&self) -> &Discovery {
        self.0.get_ref()
    }
}

impl DerefMut for Records {
    fn deref_mut(&mut self) -> &mut Discovery {
        self.0.get_mut()
    }
}
