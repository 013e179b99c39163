//! When alerts are raised, and what is run then.

use std::ffi::OsString;

use crate::cli::{AlertArgs, UsageError};

/// When alerts are raised, and what is run then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertPlan {
    /// `--alert-bytes`: from so many outstanding bytes of one process on, at least 1.
    pub bytes: Option<u64>,
    /// `--alert-rate`: from so many outstanding bytes more a second of one process on, at least 1.
    pub rate: Option<u64>,
    /// `--on-alert`: the words of the command, of which there is at least one. Only beside a limit.
    pub command: Option<Vec<OsString>>,
}

impl AlertPlan {
    /// Whether there is any limit.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.bytes.is_some() || self.rate.is_some()
    }

    /// Settles the options.
    ///
    /// # Errors
    /// A command, and nothing to run it for.
    pub(super) fn resolve(args: AlertArgs) -> Result<Self, UsageError> {
        let AlertArgs { alert_bytes, alert_rate, on_alert } = args;
        let plan = Self { bytes: alert_bytes, rate: alert_rate, command: on_alert.map(|words| words.0) };
        if plan.command.is_some() && !plan.is_wanted() {
            return Err(UsageError::new(
                "--on-alert runs a command at alerts, and without a limit there are none; give --alert-bytes or --alert-rate too",
            ));
        }
        Ok(plan)
    }
}
