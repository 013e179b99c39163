//! What is wrong with a command line, in one line with the next step.

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Cli;
use super::values::parse_bytes;

/// A command line that cannot be followed. Exit status 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl UsageError {
    /// An error of this wording: what is wrong; what to do.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// clap's message without its paragraphs: its first one, and its tips or else ours. `subcommand` is the one whose arguments are at
/// fault, `after_lsan` the word behind `--lsan`, whose FILE must be joined to it.
pub(super) fn one_line(error: &clap::Error, subcommand: Option<&str>, after_lsan: Option<&str>) -> UsageError {
    let text = error.render().to_string();
    let paragraph: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let what = paragraph.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    // clap's advice to pass an unknown option as COMMAND is never what was meant.
    let tips = text.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    let tips: Vec<&str> = tips.filter(|tip| !tip.starts_with("to pass ")).collect();
    let file = misplaced(error).filter(|word| after_lsan == Some(word) && !word.starts_with('-'));
    let file_tip = file.map(|file| format!("write the FILE of --lsan with =, --lsan={file}"));
    let next = match file_tip.or_else(|| own_tip(error).filter(|_| subcommand.is_none())) {
        Some(tip) => tip,
        None if !tips.is_empty() => tips.join("; "),
        None => format!("see leaktrace {}--help", subcommand.map_or(String::new(), |name| format!("{name} "))),
    };
    // A parser of values that names the next step has said all there is to say.
    if error.kind() == ErrorKind::ValueValidation {
        UsageError::new(what)
    } else {
        UsageError::new(format!("{what}; {next}"))
    }
}

/// For the words that clap cannot place, commands without `--` and pids parted by spaces, and for a pid that is missing because
/// pidof found none.
fn own_tip(error: &clap::Error) -> Option<String> {
    let word = misplaced(error)?;
    if word.starts_with("--pid ") {
        return Some(super::values::NO_PROCESS.to_owned());
    }
    if word.starts_with('-') || error.kind() == ErrorKind::InvalidValue || word == "help" {
        return None;
    }
    let is_number = word.bytes().all(|byte| byte.is_ascii_digit());
    Some(if let Some(name) = similar_subcommand(word) {
        format!("a similar subcommand exists: {name}")
    } else if is_number {
        format!("join pids by commas, -p 12,34, and write optional values with =, --fail-on-leak={word}")
    } else if parse_bytes(word).is_ok() {
        format!("write optional values with =, --fail-on-leak={word}")
    } else {
        format!("a command to trace comes after --: leaktrace -- {word}")
    })
}

/// The word that clap cannot place.
fn misplaced(error: &clap::Error) -> Option<&str> {
    let place = match error.kind() {
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        ErrorKind::UnknownArgument | ErrorKind::InvalidValue => ContextKind::InvalidArg,
        _ => return None,
    };
    match error.get(place) {
        Some(ContextValue::String(word)) => Some(word),
        _ => None,
    }
}

/// The subcommand that somebody may have meant, by the measure that clap has for options.
fn similar_subcommand(word: &str) -> Option<String> {
    const SIMILAR: f64 = 0.8;
    let command = Cli::command();
    let names = command.get_subcommands().map(clap::Command::get_name);
    let measured = names.map(|name| (strsim::jaro(word, name), name));
    let nearest = measured.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (nearest.0 > SIMILAR).then(|| nearest.1.to_owned())
}
