//! Reads what the BPF programs report: events in a ring and, for `-vv`, messages.
//!
//! In: what [`Kernel`] has loaded. Out: events in the order in which they were written. The descriptor is readable when there
//! are any.

use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result};
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use leaktrace_common::abi::{EVENT_LAYOUT, EVENT_THREAD, Event, LayoutEvent, ThreadEvent};

use super::Kernel;

/// Events read from the ring.
#[derive(Default)]
pub struct Told {
    /// Lives and threads, in order.
    pub lives: Vec<News>,
    /// Layouts that processes have now.
    pub layouts: Vec<LayoutEvent>,
}

/// What became of a process.
#[derive(Debug, Clone)]
pub enum News {
    /// A life began or ended.
    Life(Event),
    /// A thread ended with the process that is judged, or because that began another program.
    ThreadKilled(Box<ThreadEvent>),
}

/// The only reader of the ring.
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
    pub fn read(&mut self) -> Told {
        // Each of the programs' messages comes with an event.
        if let Some(log) = &mut self.log {
            log.flush();
        }
        let mut told = Told::default();
        while let Some(item) = self.ring.next() {
            if item.len() < size_of::<Event>() {
                continue;
            }
            // SAFETY: plain integers, and long enough.
            let event = unsafe { item.as_ptr().cast::<Event>().read_unaligned() };
            match event.kind {
                EVENT_LAYOUT if item.len() >= size_of::<LayoutEvent>() => {
                    // SAFETY: as above.
                    told.layouts.push(unsafe { item.as_ptr().cast::<LayoutEvent>().read_unaligned() });
                }
                EVENT_THREAD if item.len() >= size_of::<ThreadEvent>() => {
                    // SAFETY: as above.
                    let thread = unsafe { item.as_ptr().cast::<ThreadEvent>().read_unaligned() };
                    told.lives.push(News::ThreadKilled(Box::new(thread)));
                }
                EVENT_LAYOUT | EVENT_THREAD => {}
                _ => told.lives.push(News::Life(event)),
            }
        }
        told
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
