//! Which reports go where.

use std::fs;
use std::path::{Path, PathBuf};

use super::Surroundings;
use crate::cli::{ColorArg, GroupByArg, MeasureArg, OutputArgs, SchemaArg, UsageError};
use crate::model::Schema;
use crate::report::output::Destination;
use crate::report::text::{GroupBy, TextStyle};
use crate::report::{Form, Format, Measure, Outputs};

/// Where reports go.
///
/// # Errors
/// Two that name the same file.
pub(super) fn resolve(args: &OutputArgs, color: ColorArg, surroundings: Surroundings) -> Result<Outputs, UsageError> {
    let destination = |path: &PathBuf| Destination::from_arg(path.as_os_str());
    let schema = match args.json_schema {
        SchemaArg::V1 => Schema::V1,
        SchemaArg::V2 => Schema::V2,
    };
    let json = Format::Json { schema, all_sites: want_all_sites(args) };
    let lsan = Format::Lsan { objects: args.show_allocs };
    let asked_for = [
        (Format::Flamegraph(measure(args.flamegraph_by)), &args.flamegraph),
        (Format::Folded, &args.folded),
        (json, &args.json),
        (lsan, &args.lsan),
        (Format::Timeline, &args.timeline),
    ];
    let files = asked_for.into_iter().filter_map(|(format, path)| Some((format, destination(path.as_ref()?))));
    let outputs = Outputs {
        files: files.collect(),
        text: TextStyle {
            top: args.top.0,
            show_allocs: args.show_allocs,
            holders: args.holders,
            group_by: match args.group_by {
                GroupByArg::Stack => GroupBy::Stack,
                GroupByArg::Type => GroupBy::Type,
            },
            color: self::color(color, surroundings),
            width: surroundings.columns,
        },
    };
    check_distinct(&outputs)?;
    Ok(outputs)
}

pub(super) fn measure(arg: MeasureArg) -> Measure {
    match arg {
        MeasureArg::Bytes => Measure::Bytes,
        MeasureArg::Count => Measure::Count,
    }
}

pub(super) fn color(arg: ColorArg, surroundings: Surroundings) -> bool {
    match arg {
        ColorArg::Auto => surroundings.color,
        ColorArg::Always => true,
        ColorArg::Never => false,
    }
}

/// Readers of the first schema do not know that sites may be left out.
pub(super) fn want_all_sites(args: &OutputArgs) -> bool {
    args.all_sites || args.json_schema == SchemaArg::V1
}

/// Of two reports in one file only the second would remain, and two on standard output would be mixed.
pub(super) fn check_distinct<F: Form>(outputs: &Outputs<F>) -> Result<(), UsageError> {
    for (index, (format, destination)) in outputs.files.iter().enumerate() {
        let earlier = outputs.files.iter().take(index).find(|(_, earlier)| is_same(earlier, destination));
        let Some((other, _)) = earlier else { continue };
        let (option, other) = (format.option(), other.option());
        return Err(UsageError::new(match destination {
            Destination::Stdout => {
                format!("{other} and {option} cannot both be on standard output; give one of them a file")
            }
            Destination::File(path) => {
                format!("{other} and {option} name the same file, {}; give each its own", path.display())
            }
        }));
    }
    Ok(())
}

fn is_same(one: &Destination, other: &Destination) -> bool {
    match (one, other) {
        (Destination::Stdout, Destination::Stdout) => true,
        (Destination::File(one), Destination::File(other)) => {
            // A device such as /dev/null takes any number of reports.
            let is_device = fs::metadata(one).is_ok_and(|metadata| !metadata.is_file());
            !is_device && canonical(one) == canonical(other)
        }
        _ => false,
    }
}

/// One name for a file, whether it is there or not.
fn canonical(path: &Path) -> PathBuf {
    let beside = || {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(fs::canonicalize(parent).ok()?.join(path.file_name()?))
    };
    fs::canonicalize(path).ok().or_else(beside).unwrap_or_else(|| path.to_owned())
}
