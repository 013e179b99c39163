//! Shell completions and the manual page, from the same definition as `--help`.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{AFTER_LONG_HELP, Cli};

/// Completions for `shell`.
#[must_use]
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "leaktrace", &mut out);
    out
}

/// The manual page `leaktrace(1)` in roff.
///
/// # Errors
/// None in practice: it is written to memory.
pub fn manual() -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let page = Man::new(Cli::command()).section("1").manual("User Commands");
    page.render_title(&mut out)?;
    page.render_name_section(&mut out)?;
    page.render_synopsis_section(&mut out)?;
    page.render_description_section(&mut out)?;
    page.render_options_section(&mut out)?;
    subcommands(&mut out)?;
    notes(&mut out)?;
    Ok(out)
}

/// The subcommands in this page: pages of their own would be read by nobody.
fn subcommands(out: &mut Vec<u8>) -> io::Result<()> {
    writeln!(out, ".SH SUBCOMMANDS")?;
    for command in Cli::command().get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(out, ".TP\n\\fBleaktrace {}\\fR\n{}.", command.get_name(), escape(&about))?;
    }
    writeln!(out, ".PP\n\\fBleaktrace report\\fR takes the options of the last three groups above.")?;
    writeln!(
        out,
        ".PP\n\\fBleaktrace diff\\fR takes the options \\fB\\-\\-flamegraph\\fR, \\fB\\-\\-flamegraph\\-by\\fR, \\fB\\-\\-folded\\fR,"
    )?;
    writeln!(out, "\\fB\\-\\-json\\fR, \\fB\\-\\-top\\fR, \\fB\\-\\-sort\\fR (bytes or count) and those of messages.")
}

/// The text under `--help`: its first lines on values, each `Heading:` as a section, indented lines as they stand.
fn notes(out: &mut Vec<u8>) -> io::Result<()> {
    let mut verbatim = false;
    writeln!(out, ".SH VALUES")?;
    for line in AFTER_LONG_HELP.lines() {
        let indented = line.starts_with(' ');
        if indented != verbatim {
            writeln!(out, "{}", if indented { ".nf" } else { ".fi" })?;
            verbatim = indented;
        }
        match line.strip_suffix(':').filter(|_| !indented) {
            Some(heading) => writeln!(out, ".SH {}", escape(&heading.to_uppercase()))?,
            None if line.is_empty() => {}
            None if indented => writeln!(out, "{}", escape(line.strip_prefix("  ").unwrap_or(line)))?,
            None => writeln!(out, "{}\n.PP", escape(line))?,
        }
    }
    if verbatim { writeln!(out, ".fi") } else { Ok(()) }
}

/// Text that roff takes as text: see groff(7), "Control characters" and "Escape sequences".
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
