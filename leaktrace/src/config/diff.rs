//! `leaktrace diff`, settled.

use std::path::{Path, PathBuf};

use super::{Messages, Surroundings, outputs};
use crate::cli::{DiffArgs, DiffSortArg, UsageError};
use crate::model::{Pair, SortKey};
use crate::report::Outputs;
use crate::report::diff::DiffFormat;
use crate::report::output::Destination;
use crate::report::text::{GroupBy, TextStyle};

/// A comparison of two saved snapshots.
#[derive(Debug)]
pub struct DiffConfig {
    /// The files; `None` is standard input.
    pub snapshots: Pair<Option<PathBuf>>,
    /// What the sites are ordered by.
    pub sort: SortKey,
    /// Where reports go.
    pub outputs: Outputs<DiffFormat>,
    /// What to say on standard error.
    pub messages: Messages,
}

impl DiffConfig {
    pub(super) fn resolve(args: DiffArgs, surroundings: Surroundings) -> Result<Self, UsageError> {
        let DiffArgs { before, after, output, messages } = args;
        let snapshots = Pair { before, after }.map(|path| (path != Path::new("-")).then_some(path));
        if snapshots.before.is_none() && snapshots.after.is_none() {
            return Err(UsageError::new("OLD and NEW cannot both be standard input; name a file for one of them"));
        }
        let asked_for = [
            (DiffFormat::Flamegraph(outputs::measure(output.flamegraph_by)), &output.flamegraph),
            (DiffFormat::Folded, &output.folded),
            (DiffFormat::Json, &output.json),
        ];
        let file = |(format, path): (DiffFormat, &Option<PathBuf>)| {
            Some((format, Destination::from_arg(path.as_ref()?.as_os_str())))
        };
        let outputs = Outputs {
            files: asked_for.into_iter().filter_map(file).collect(),
            text: TextStyle {
                top: output.top.0,
                show_allocs: false,
                holders: false,
                group_by: GroupBy::Stack,
                color: outputs::color(messages.color, surroundings),
                width: surroundings.columns,
            },
        };
        outputs::check_distinct(&outputs)?;
        Ok(Self {
            snapshots,
            sort: match output.sort {
                DiffSortArg::Bytes => SortKey::Bytes,
                DiffSortArg::Count => SortKey::Count,
            },
            outputs,
            messages: Messages::resolve(&messages, true, surroundings),
        })
    }
}
