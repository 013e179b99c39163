//! Messages on standard error: warnings, and with `-v` what is being done.

use std::io::{self, Write};
use std::panic;

use log::{Level, LevelFilter};

use crate::clean::clean;
use crate::config::Messages;
use crate::workers;

/// Sends log records to standard error as `leaktrace: warning: …`, from now on.
pub fn start(messages: Messages) {
    let (own, libraries) = match (messages.quiet, messages.verbose) {
        (true, _) => (LevelFilter::Error, LevelFilter::Off),
        (false, 0) => (LevelFilter::Warn, LevelFilter::Off),
        (false, 1) => (LevelFilter::Info, LevelFilter::Off),
        (false, 2) => (LevelFilter::Debug, LevelFilter::Warn),
        (false, _) => (LevelFilter::Trace, LevelFilter::Debug),
    };
    let started = env_logger::Builder::new()
        .filter_level(libraries)
        .filter_module(env!("CARGO_CRATE_NAME"), own)
        .format(|out, record| {
            let message = record.args().to_string();
            let message = clean(&message);
            match record.level() {
                Level::Error => writeln!(out, "leaktrace: error: {message}"),
                Level::Warn => writeln!(out, "leaktrace: warning: {message}"),
                Level::Info => writeln!(out, "leaktrace: {message}"),
                Level::Debug | Level::Trace => writeln!(out, "leaktrace: {}: {message}", record.target()),
            }
        })
        .try_init();
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(|place| format!(" ({}:{})", place.file(), place.line())).unwrap_or_default();
        let message = workers::message(panic.payload());
        // If standard error is closed, the message is dropped.
        let _ = writeln!(io::stderr(), "leaktrace: internal error: {}{place}; please report this", clean(&message));
    }));
    // A program that embeds the library may have set its own logger, which stays.
    drop(started);
}
