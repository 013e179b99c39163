//! One file from one server, within limits of time and size.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Error, Timeout};

use super::Settings;

/// What must come in each interval that a server is given, bytes (debuginfod-client-config(7), `DEBUGINFOD_TIMEOUT`).
const PACE: u64 = 100 * 1024;
/// Read at once, bytes.
const PIECE: usize = 64 * 1024;

/// Why a file did not come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing can be had from the server.
    Unreachable(String),
    /// Not this file.
    Refused(String),
    /// Nobody wants it any more.
    Stopped,
}

/// Fetches files.
pub(super) struct Transfer {
    agent: Agent,
    timeout: Duration,
    longest: Duration,
    max_size: u64,
    stop: Arc<AtomicBool>,
}

impl Transfer {
    pub(super) fn new(settings: &Settings, stop: Arc<AtomicBool>) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = Agent::config_builder()
            .user_agent(concat!("leaktrace/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .max_redirects(3)
            .timeout_global(Some(settings.longest))
            .timeout_resolve(Some(settings.timeout))
            .timeout_connect(Some(settings.timeout))
            .timeout_recv_response(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout))
            .tls_config(tls.build());
        let Settings { timeout, longest, max_size, .. } = *settings;
        Self { agent: config.build().new_agent(), timeout, longest, max_size, stop }
    }

    /// Writes what a URL leads to into a file that `room` gives; `None` where it leads to nothing.
    pub(super) fn get(
        &self,
        url: &str,
        room: impl FnOnce() -> Result<File, Trouble>,
    ) -> Result<Option<(File, u64)>, Trouble> {
        let mut response = self.agent.get(url).call().map_err(|error| self.trouble(&error))?;
        match response.status().as_u16() {
            200 => {}
            404 | 410 => return Ok(None),
            status => return Err(Trouble::Refused(format!("answered with status {status}"))),
        }
        if response.body().content_length().is_some_and(|length| length > self.max_size) {
            return Err(self.too_large());
        }
        let mut file = room()?;
        let bytes = self.copy(&mut response.body_mut().as_reader(), &mut file)?;
        Ok(Some((file, bytes)))
    }

    fn copy(&self, from: &mut dyn Read, to: &mut dyn Write) -> Result<u64, Trouble> {
        let mut piece = vec![0; PIECE];
        let (mut bytes, mut interval) = (0, (Instant::now(), 0));
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Trouble::Stopped);
            }
            let read = match from.read(&mut piece) {
                Ok(0) => return Ok(bytes),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.trouble(&Error::from(error))),
            };
            bytes += read as u64;
            if bytes > self.max_size {
                return Err(self.too_large());
            }
            to.write_all(&piece[..read]).map_err(|error| Trouble::Refused(format!("it cannot be stored: {error}")))?;
            let (since, before) = interval;
            if since.elapsed() >= self.timeout {
                if bytes - before < PACE {
                    return Err(Trouble::Unreachable(format!("sent less than 100 KB in {:?}", self.timeout)));
                }
                interval = (Instant::now(), bytes);
            }
        }
    }

    fn trouble(&self, error: &Error) -> Trouble {
        match error {
            Error::Timeout(Timeout::Global) => Trouble::Refused(format!("took longer than {:?}", self.longest)),
            Error::Timeout(_) => Trouble::Unreachable(format!("did not answer within {:?}", self.timeout)),
            Error::TooManyRedirects | Error::RedirectFailed => Trouble::Refused(error.to_string()),
            _ => Trouble::Unreachable(error.to_string()),
        }
    }

    fn too_large(&self) -> Trouble {
        Trouble::Refused(format!("its file is larger than {} bytes", self.max_size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(timeout: Duration, max_size: u64, stopped: bool) -> Transfer {
        let settings = Settings { timeout, max_size, ..Settings::from_variables(&|_| None) };
        Transfer::new(&settings, Arc::new(AtomicBool::new(stopped)))
    }

    fn copied(transfer: &Transfer, bytes: usize) -> Result<u64, Trouble> {
        let mut out = Vec::new();
        let result = transfer.copy(&mut io::repeat(1).take(bytes as u64), &mut out);
        assert!(out.len() as u64 <= transfer.max_size, "no more is stored than is wanted");
        result
    }

    #[test]
    fn a_file_is_copied_up_to_its_largest_size() {
        let transfer = transfer(Duration::from_mins(10), 300_000, false);
        assert_eq!(copied(&transfer, 300_000), Ok(300_000));
        assert_eq!(copied(&transfer, 300_001), Err(transfer.too_large()));
    }

    #[test]
    fn a_server_that_trickles_is_given_up() {
        // No time at all: what comes first is less than must come in each interval.
        let transfer = transfer(Duration::ZERO, 300_000, false);
        assert!(matches!(copied(&transfer, 1000), Err(Trouble::Unreachable(_))));
    }

    #[test]
    fn nothing_is_copied_that_nobody_wants_any_more() {
        assert_eq!(copied(&transfer(Duration::from_mins(10), 300_000, true), 1000), Err(Trouble::Stopped));
    }
}
