//! Messages on standard error: warnings, and with `-v` what is being done.

use std::io::Write;

use log::{Level, LevelFilter};

use crate::config::Messages;

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
        .format(|out, record| match record.level() {
            Level::Error => writeln!(out, "leaktrace: error: {}", record.args()),
            Level::Warn => writeln!(out, "leaktrace: warning: {}", record.args()),
            Level::Info => writeln!(out, "leaktrace: {}", record.args()),
            Level::Debug | Level::Trace => writeln!(out, "leaktrace: {}: {}", record.target(), record.args()),
        })
        .try_init();
    // A program that embeds the library may have its own logger; that one stays.
    drop(started);
}
