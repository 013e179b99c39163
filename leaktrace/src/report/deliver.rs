//! Takes a snapshot to every place that was asked for.
//!
//! In: the resolved outputs, checked once before tracing, and then each snapshot. Out: bytes on standard output and in
//! files, and errors. A failure to write one file never prevents the other reports.

use std::io::{self, Write};
use std::time::Instant;

use anyhow::Context;

use super::output::{Destination, OutputFile, reason};
use super::style::TextStyle;
use super::{Form, Format};

/// The reports asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs<F = Format> {
    /// Which report goes where, beside the text.
    pub files: Vec<(F, Destination)>,
    /// The text report's looks.
    pub text: TextStyle,
}

impl Outputs<Format> {
    /// Whether a report asks for sites that have nothing outstanding.
    #[must_use]
    pub fn wants_all_sites(&self) -> bool {
        self.files.iter().any(|(format, _)| matches!(format, Format::Json { all_sites: true, .. }))
    }
}

impl<F> Outputs<F> {
    /// Whether the text report goes to standard output: it does unless another report was sent there.
    #[must_use]
    pub fn text_on_stdout(&self) -> bool {
        self.files.iter().all(|(_, destination)| *destination != Destination::Stdout)
    }
}

/// Writes snapshots to destinations that were found writable.
#[derive(Debug)]
pub struct Reporter<F = Format> {
    text: Option<TextStyle>,
    others: Vec<Output<F>>,
}

#[derive(Debug)]
struct Output<F> {
    format: F,
    /// `None` is standard output.
    file: Option<OutputFile>,
    /// For messages.
    name: String,
}

/// How a delivery went.
#[derive(Debug)]
pub struct Delivery {
    /// False once nobody reads standard output any more (a broken pipe): the trace ends, without an error.
    pub stdout_open: bool,
    /// One for each report that could not be written, naming option, file, cause and next step.
    pub failures: Vec<anyhow::Error>,
}

impl<F: Form> Reporter<F> {
    /// Checks every destination, so that a trace does not run for hours to fail in the end.
    ///
    /// # Errors
    /// The first destination that cannot be written.
    pub fn prepare(outputs: &Outputs<F>) -> anyhow::Result<Self> {
        let prepared = |(format, destination): &(F, Destination)| -> anyhow::Result<Output<F>> {
            let (file, name) = match destination {
                Destination::Stdout => (None, "-".to_owned()),
                Destination::File(path) => {
                    let name = path.display().to_string();
                    let file = OutputFile::check(path).with_context(|| cannot_write(*format, &name))?;
                    (Some(file), name)
                }
            };
            Ok(Output { format: *format, file, name })
        };
        let others = outputs.files.iter().map(prepared).collect::<anyhow::Result<_>>()?;
        Ok(Self { text: outputs.text_on_stdout().then_some(outputs.text), others })
    }

    /// Whether the text report goes to standard output; if not, losses must be reported elsewhere.
    #[must_use]
    pub fn writes_text(&self) -> bool {
        self.text.is_some()
    }

    /// Writes `content` everywhere, standard output first: that report must arrive even if the disk is full.
    pub fn deliver(&self, content: &F::Content) -> Delivery {
        self.deliver_to(content, &mut io::stdout().lock())
    }

    /// [`Self::deliver`] with another writer for standard output.
    pub fn deliver_to(&self, content: &F::Content, stdout: &mut dyn Write) -> Delivery {
        let mut delivery = Delivery { stdout_open: true, failures: Vec::new() };
        if let Some(style) = self.text {
            timed("text", || {
                delivery.stdout(stdout, |out| {
                    F::write_text(content, style, out)?;
                    // A line between the reports of one trace.
                    if F::is_last(content) { Ok(()) } else { out.write_all(b"\n") }
                });
            });
        }
        for output in &self.others {
            // A stream cannot take back an earlier report.
            if output.file.is_none() && !F::is_last(content) && !output.format.can_follow_itself() {
                continue;
            }
            timed(output.format.option(), || match &output.file {
                None => delivery.stdout(stdout, |out| output.format.write(content, out)),
                Some(file) => {
                    let written = file.write(|out| output.format.write(content, out));
                    delivery.failures.extend(written.with_context(|| cannot_write(output.format, &output.name)).err());
                }
            });
        }
        delivery
    }
}

impl Delivery {
    fn stdout(&mut self, stdout: &mut dyn Write, render: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        let mut out = io::BufWriter::new(stdout);
        match render(&mut out).and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.stdout_open = false,
            Err(error) => self.failures.push(anyhow::anyhow!(
                "cannot write to standard output: {}; send it to a file or pipe that can be written",
                reason(&error)
            )),
        }
        // Otherwise dropping the buffer would try again to write what could not be written.
        let _ = out.into_parts();
    }
}

/// Says with `-v` how long rendering and writing this took.
fn timed(what: &str, write: impl FnOnce()) {
    let begun = Instant::now();
    write();
    log::info!("writing {what} took {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
}

fn cannot_write(format: impl Form, name: &str) -> String {
    format!("cannot write {} {name}", format.option())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::super::text::GroupBy;
    use super::*;
    use crate::model::{Schema, Snapshot};

    const TEXT: TextStyle = TextStyle {
        top: None,
        show_allocs: false,
        holders: false,
        group_by: GroupBy::Stack,
        color: false,
        width: None,
    };

    fn snapshot(is_final: bool) -> Snapshot {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":1,
            "target":{"mode":"pid","pids":[7]},
            "sites":[{"pid":7,"outstanding_bytes":10,"outstanding_count":1,"alloc_count":1}]}"#;
        Snapshot { is_final, ..Snapshot::from_json(text.as_bytes()).unwrap() }
    }

    fn to(arg: impl AsRef<OsStr>) -> Destination {
        Destination::from_arg(arg.as_ref())
    }

    const JSON: Format = Format::Json { schema: Schema::V2, all_sites: false };

    fn outputs<const N: usize>(files: [(Format, Destination); N]) -> Outputs {
        Outputs { files: files.into(), text: TEXT }
    }

    fn delivered(outputs: &Outputs, snapshot: &Snapshot) -> (String, Delivery) {
        let mut out = Vec::new();
        let delivery = Reporter::prepare(outputs).unwrap().deliver_to(snapshot, &mut out);
        (String::from_utf8(out).unwrap(), delivery)
    }

    /// A standard output whose reader has closed it.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_report_on_standard_output_takes_the_place_of_the_text() {
        let outputs = outputs([(JSON, to("-"))]);
        let (out, _) = delivered(&outputs, &snapshot(false));
        let (last, _) = delivered(&outputs, &snapshot(true));
        assert!(Snapshot::from_json(out.as_bytes()).is_ok() && Snapshot::from_json(last.as_bytes()).is_ok());
    }

    #[test]
    fn pictures_on_a_stream_come_once() {
        let outputs = outputs([(Format::Folded, to("-"))]);
        assert_eq!(delivered(&outputs, &snapshot(false)).0, "");
        assert_eq!(delivered(&outputs, &snapshot(true)).0, "?-7;[no stack recorded] 10\n");
    }

    #[test]
    fn the_text_arrives_though_a_file_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        let outputs = outputs([(Format::Folded, to("/dev/full")), (JSON, to(&path))]);
        let (out, delivery) = delivered(&outputs, &snapshot(true));
        assert!(out.starts_with("10 B outstanding in 1 allocation at 1 site"), "{out}");
        assert!(path.exists(), "the other file is written");
        let failures: Vec<String> = delivery.failures.iter().map(|error| format!("{error:#}")).collect();
        let room = "No space left on device; make room there or name another file";
        assert_eq!(failures, [format!("cannot write --folded /dev/full: {room}")]);
    }

    #[test]
    fn a_broken_pipe_is_no_failure_and_files_are_still_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.json");
        let outputs = outputs([(JSON, to(&path))]);
        let delivery = Reporter::prepare(&outputs).unwrap().deliver_to(&snapshot(true), &mut Closed);
        assert!(!delivery.stdout_open && delivery.failures.is_empty());
        assert!(path.exists());
    }

    #[test]
    fn an_unwritable_destination_is_found_in_preparation() {
        let outputs = outputs([(JSON, to("/nowhere/at/all.json"))]);
        let error = format!("{:#}", Reporter::prepare(&outputs).unwrap_err());
        assert_eq!(
            error,
            "cannot write --json /nowhere/at/all.json: the directory /nowhere/at does not exist; create it or name \
             another file"
        );
    }
}
