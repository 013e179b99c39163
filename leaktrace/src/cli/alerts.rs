//! The options of alerts.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};

use super::values::{parse_positive_bytes, parse_rate};

/// When to raise an alarm, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Alerts")]
pub struct AlertArgs {
    /// Warn where one process has at least BYTES outstanding
    ///
    /// On standard error, and in the next report and the last. The processes are looked at once a second. What one held for a
    /// moment in between counts too. As long as it lasts it is said again, at most once in 5 minutes of each process.
    #[arg(long, value_name = "BYTES", value_parser = parse_positive_bytes)]
    pub alert_bytes: Option<u64>,

    /// Warn where what one process has outstanding grows by at least so much a second, such as 1M/s
    ///
    /// Over 30 seconds, or at first over 10 at least. The lowest levels of the three parts of that time are compared, and of its five
    /// parts the middle rate counts, so that neither one or two large allocations nor what goes up and down is an alert. As long as it
    /// lasts it is said again, at most once in 5 minutes of each process. Where a process frees many blocks from before the trace, which
    /// are in no account, its resident memory has to grow by that much, too.
    #[arg(long, value_name = "BYTES/s", value_parser = parse_rate)]
    pub alert_rate: Option<u64>,

    // The help stands in the attribute where rustdoc would want marks that a terminal shows as they are.
    #[doc = "What to run at each alert."]
    #[arg(
        long,
        value_name = "COMMAND",
        value_parser = OsStringValueParser::new().try_map(|text| split(&text)),
        help = "Run COMMAND at each alert, without a shell",
        long_help = "Run COMMAND at each alert, without a shell\n\n\
                     It is split into words as a shell does it, with quotes and backslashes; nothing else has a meaning. It is found \
                     by PATH, runs beside the trace and is not stopped at its end. Its standard input is empty; what it prints goes \
                     to standard error.\n\n\
                     Its environment has LEAKTRACE_ALERT (bytes or rate), LEAKTRACE_PID, LEAKTRACE_COMM and LEAKTRACE_EXE, and as \
                     whole numbers LEAKTRACE_OUTSTANDING_BYTES, LEAKTRACE_RATE_BYTES_PER_S, LEAKTRACE_LIMIT and \
                     LEAKTRACE_ELAPSED_S, the time since the trace began. What is not known is empty. With --sample-bytes the bytes \
                     are estimates.\n\n\
                     At most 8 run at a time, and one about the same process and limit. Until ten seconds after its end no process \
                     that it started is a reason for an alert."
    )]
    pub on_alert: Option<Words>,
}

/// The words of a command, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(pub Vec<OsString>);

/// Splits as a shell does, but for its comments: words that are lost without a word help nobody.
fn split(text: &OsString) -> Result<Words, String> {
    // No argument has a NUL byte.
    let swapped = |bytes: &[u8], from, to| -> Vec<u8> {
        bytes.iter().map(|byte| if *byte == from { to } else { *byte }).collect()
    };
    let words = shlex::bytes::split(&swapped(text.as_bytes(), b'#', 0));
    let words = words.ok_or("a quote is not closed, or a backslash stands at the end; close it, or quote it")?;
    if words.is_empty() {
        return Err("it names no program; write one with its arguments, or leave the option out".to_owned());
    }
    Ok(Words(words.into_iter().map(|word| OsString::from_vec(swapped(&word, 0, b'#'))).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Vec<String>, String> {
        let lossy = |words: Words| words.0.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        split(&OsString::from(text)).map(lossy)
    }

    #[test]
    fn a_command_is_split_as_by_a_shell_and_nothing_in_it_is_expanded() {
        assert_eq!(words("notify-send leak").unwrap(), ["notify-send", "leak"]);
        assert_eq!(words(r#" "/opt/my tools/x" 'a  b' c\ d "" "#).unwrap(), ["/opt/my tools/x", "a  b", "c d", ""]);
        assert_eq!(words("post #ops $HOME *;x|y>z #").unwrap(), ["post", "#ops", "$HOME", "*;x|y>z", "#"]);
        assert_eq!(split(&OsString::from_vec(b"\xff x".to_vec())).unwrap().0[0].as_bytes(), b"\xff");
        for open in ["say \"x", "say 'x", "say x\\"] {
            assert!(words(open).unwrap_err().contains("not closed"), "{open}");
        }
        for nothing in ["", "  \n"] {
            assert!(words(nothing).unwrap_err().contains("names no program"), "{nothing}");
        }
    }
}
