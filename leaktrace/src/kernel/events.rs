//! What the programs tell on their own: events in a ring and, for `-vv`, messages.
//!
//! In: what [`Kernel`] has loaded. Out: events in the order in which they were written. Whoever wants to wait for them waits
//! until the descriptor can be read.

use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result};
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use leaktrace_common::abi::Event;

use super::Kernel;

/// The ring, read by one.
pub struct Events {
    ring: RingBuf<MapData>,
    /// `None` where the programs log nothing.
    log: Option<EbpfLogger<&'static dyn log::Log>>,
}

impl Events {
    /// Takes the ring and the messages, once.
    ///
    /// # Errors
    /// The BPF object has no such maps.
    pub fn take(kernel: &mut Kernel) -> Result<Self> {
        let log = log::log_enabled!(log::Level::Debug)
            .then(|| EbpfLogger::init(&mut kernel.ebpf).context("cannot read what the BPF programs log"))
            .transpose()?;
        let map = kernel.ebpf.take_map("EVENTS").context("the BPF object has no map EVENTS")?;
        Ok(Self { ring: RingBuf::try_from(map)?, log })
    }

    /// Events since the last time. Messages are passed on to our own log.
    pub fn read(&mut self) -> Vec<Event> {
        // Each of the programs' messages comes with an event.
        if let Some(log) = &mut self.log {
            log.flush();
        }
        let mut events = Vec::new();
        while let Some(item) = self.ring.next() {
            if item.len() >= size_of::<Event>() {
                // SAFETY: plain integers, and long enough.
                events.push(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
            }
        }
        events
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
