//! The suppression files that the command line names.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::analysis::suppressions::{MAX_BYTES, Rules};
use crate::cli::{OutputArgs, UsageError};
use crate::model::Rule;

/// Reads the files, and adds the rules that leaktrace brings along.
///
/// # Errors
/// A file that cannot be read, or its first line that cannot be understood.
pub(super) fn resolve(args: &OutputArgs) -> Result<Rules, UsageError> {
    let mut rules = Rules::default();
    for path in &args.suppressions {
        let name = name(path);
        let text = read(path).map_err(|error| {
            let reason = crate::report::output::reason(&error);
            UsageError::new(format!(
                "--suppressions {name} cannot be read: {reason}; name a file in the format of LeakSanitizer or Valgrind"
            ))
        })?;
        rules
            .add(&text, &name)
            .map_err(|error| UsageError::new(format!("--suppressions {name}, line {}: {}", error.line, error.what)))?;
    }
    if !args.no_default_suppressions {
        rules.add_built_in().map_err(|error| UsageError::new(format!("the built-in suppressions: {error}")))?;
    }
    Ok(rules)
}

/// What reports call the file.
fn name(path: &Path) -> String {
    let name = path.display().to_string();
    if name == Rule::BUILT_IN { format!("./{name}") } else { name }
}

/// The file's text, and not much more than rules may have.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}
