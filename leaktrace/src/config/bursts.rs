//! Windows: when calls are seen at all.

use std::time::Duration;

use super::sampler::about_every_call;
use crate::cli::{AlertArgs, CheckArgs, GateArgs, OnlyArg, OutputArgs, RecordArgs, UsageError, WhomArgs};

/// When windows are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BurstPlan {
    /// How long each is.
    pub window: Duration,
    /// The time in which there is one, at least; `None` for as little as the overhead permits.
    pub period: Option<Duration>,
    /// `--max-overhead`: the part of its processor time that seeing calls may cost a process, in millionths; `None` for whatever it
    /// costs.
    pub max_overhead: Option<u32>,
}

impl BurstPlan {
    /// Where only the overhead is given.
    const WINDOW: Duration = Duration::from_secs(1);

    pub(super) fn resolve(
        whom: &WhomArgs,
        record: &RecordArgs,
        check: &CheckArgs,
        output: &OutputArgs,
        gate: &GateArgs,
        alerts: &AlertArgs,
    ) -> Result<Option<Self>, UsageError> {
        let name = match (record.burst, record.max_overhead) {
            (Some(_), _) => "--burst",
            (None, Some(_)) => "--max-overhead",
            (None, None) => return Ok(None),
        };
        if whom.pids.is_empty() {
            return Err(UsageError::new(format!(
                "{name} opens windows on processes that run, and --pid names none; give it, or leave {name} out"
            )));
        }
        let others = [
            ("--sample-bytes", record.sample_bytes.is_some()),
            ("--min-size", record.min_size.is_some()),
            ("--max-size", record.max_size.is_some()),
            ("--warmup", !record.warmup.is_zero()),
            ("--only growing", output.only == Some(OnlyArg::Growing)),
            ("--timeline", output.timeline.is_some()),
            ("--alert-bytes", alerts.alert_bytes.is_some()),
            ("--alert-rate", alerts.alert_rate.is_some()),
        ];
        let others = others.into_iter().find_map(|(name, is_given)| is_given.then_some(name));
        if let Some(other) = about_every_call(check, output, gate).or(others) {
            return Err(UsageError::new(format!(
                "{name} sees calls in windows only, {other} is about every call; leave one of them out"
            )));
        }
        Ok(Some(Self {
            window: record.burst.map_or(Self::WINDOW, |burst| burst.window),
            period: record.burst.map(|burst| burst.period),
            max_overhead: record.max_overhead.map(|percent| (percent.0 * 1e4).ceil() as u32),
        }))
    }
}
