//! Whether processes are seen by a sampler of their own, at places that tell of few allocations, instead of by probes at every call.

use super::{Config, NoChecks};
use crate::cli::{
    CheckArgs, CheckModeArg, GateArgs, GroupByArg, LeakCheckArg, OnlyArg, OutputArgs, RecordArgs, UsageError, WhomArgs,
};
use crate::model::sampling::DRAWN_AT_FIRST;
use crate::probes::plan::Seen;

/// Whether processes are seen by a sampler of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampler {
    /// Every call is traced.
    Never,
    /// If each of the named processes has one: nothing was asked for that a sample cannot tell.
    IfThere,
    /// COMMAND gets ours.
    Preloaded,
}

impl Sampler {
    pub(super) fn resolve(
        whom: &WhomArgs,
        record: &RecordArgs,
        check: &CheckArgs,
        output: &OutputArgs,
        gate: &GateArgs,
    ) -> Result<Self, UsageError> {
        // What says which calls.
        let others = [
            ("--sample-bytes", record.sample_bytes.is_some()),
            ("--burst", record.burst.is_some()),
            ("--max-overhead", record.max_overhead.is_some()),
            ("--object", !whom.objects.is_empty()),
            ("--symbols-prefix", !whom.symbols_prefixes.is_empty()),
            ("--alloc-symbols", !whom.alloc_symbols.is_empty()),
        ];
        let others = others.into_iter().find_map(|(name, is_given)| is_given.then_some(name));
        let other = about_every_call(check, output, gate).or(others);
        match (whom.sampler, other) {
            (true, _) if whom.command.is_empty() => Err(UsageError::new(
                "--sampler starts a COMMAND with the sampler, and none is given; of a process that was started with it, --pid finds \
                 the sampler by itself",
            )),
            (true, Some(other)) => Err(UsageError::new(format!(
                "--sampler tells of a sample of the allocations, {other} is about every call; leave one of them out"
            ))),
            (true, None) => Ok(Self::Preloaded),
            (false, None) if !whom.pids.is_empty() => Ok(Self::IfThere),
            (false, _) => Ok(Self::Never),
        }
    }
}

/// An option that was given and is about every call, if there is one.
pub(super) fn about_every_call(check: &CheckArgs, output: &OutputArgs, gate: &GateArgs) -> Option<&'static str> {
    let options = [
        ("--leak-check", check.leak_check.is_some_and(|asked| asked != LeakCheckArg::No)),
        ("--leak-check-mode", check.leak_check_mode != CheckModeArg::Auto),
        ("--holders", output.holders),
        ("--group-by type", output.group_by == GroupByArg::Type),
        ("--lsan", output.lsan.is_some()),
        ("--fail-on-leak", gate.fail_on_leak.is_some()),
        ("--only lost", output.only == Some(OnlyArg::Lost)),
        ("--fail-on-growth", gate.fail_on_growth.is_some()),
    ];
    options.into_iter().find_map(|(name, is_given)| is_given.then_some(name))
}

impl Config {
    /// The same for processes that are seen by a sampler of their own.
    #[must_use]
    pub fn by_sampler(&self) -> Self {
        let mut config = self.clone();
        config.recording.seen = Seen::Samples;
        config.recording.sample_bytes = Some(DRAWN_AT_FIRST);
        if config.leak_check != Err(NoChecks::Declined) {
            config.leak_check = Err(NoChecks::BySampler);
        }
        config
    }
}
