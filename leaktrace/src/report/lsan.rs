//! The leak check's findings in the text of LeakSanitizer, for what reads its reports.
//!
//! The form is that of LeakSanitizer itself (compiler-rt, `lsan_common.cpp` and `sanitizer_stacktrace_printer.cpp`), one
//! report for each process with leaks: definitely lost blocks are direct leaks, indirectly lost ones are indirect leaks, first
//! the direct ones and then by size. As there, a process without leaks has no report; possibly lost blocks are none, since
//! LeakSanitizer takes every pointer into a block for one to it.
//!
//! Three things differ by necessity:
//! - LeakSanitizer's frame #0 is the allocation function, and parsers skip it by number or by name. Our stacks begin with its
//!   caller and do not say which one it was; so a frame `malloc` at address 0 stands for it, unless the stack begins with
//!   an allocation function itself, such as the `operator new` that called `malloc`.
//! - What LeakSanitizer cannot meet stands in lines of the form of its warnings, before the reports: every loss, blocks
//!   without a verdict, undecided blocks.
//! - Code made at run time has a name and no module.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Write};

use super::human::{Bytes, counted};
use super::notices::notices;
use crate::clean::clean;
use crate::model::{Frame, Pid, Reachability, Site, Snapshot, Tally, TraceMode};

/// Above each report.
const RULE: &str = "=================================================================";
/// Where nothing is known of the module.
const NO_MODULE: &str = "(<unknown module>)";

/// Writes a report for each process that has lost blocks, and a line for each thing that makes the reports uncertain. Writes
/// nothing if there is nothing of either.
///
/// `with_objects` lists the blocks of each leak, as far as the snapshot has them: address and size, as LeakSanitizer's
/// option `report_objects` does.
///
/// # Errors
/// What `out` reports.
pub fn write(snapshot: &Snapshot, with_objects: bool, out: &mut dyn Write) -> io::Result<()> {
    let speaker = speaker(snapshot);
    for warning in warnings(snapshot) {
        writeln!(out, "=={speaker}==WARNING: leaktrace: {warning}")?;
    }
    let mut by_process: BTreeMap<(Option<usize>, Pid), Vec<Leak<'_>>> = BTreeMap::new();
    for site in &snapshot.sites {
        let leaks = Leak::of(site);
        if !leaks.is_empty() {
            by_process.entry((site.process, site.pid)).or_default().extend(leaks);
        }
    }
    for ((_, pid), mut leaks) in by_process {
        // Stable, so that the snapshot's order decides among equals.
        leaks.sort_by_key(|leak| (leak.kind, Reverse(leak.lost.bytes)));
        write_process(pid, &leaks, with_objects, out)?;
    }
    Ok(())
}

/// Which of LeakSanitizer's two kinds of leak, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Direct,
    Indirect,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Direct => "Direct leak",
            Self::Indirect => "Indirect leak",
        }
    }

    fn verdict(self) -> Reachability {
        match self {
            Self::Direct => Reachability::DefinitelyLost,
            Self::Indirect => Reachability::IndirectlyLost,
        }
    }
}

/// The blocks of one kind at one site.
struct Leak<'a> {
    kind: Kind,
    site: &'a Site,
    lost: Tally,
}

impl<'a> Leak<'a> {
    /// A site's leaks: none, one, or one of each kind.
    fn of(site: &'a Site) -> Vec<Self> {
        let verdict = site.verdict.unwrap_or_default();
        [(Kind::Direct, verdict.definitely_lost), (Kind::Indirect, verdict.indirectly_lost)]
            .into_iter()
            .filter(|(_, lost)| lost.count > 0)
            .map(|(kind, lost)| Self { kind, site, lost })
            .collect()
    }
}

fn write_process(pid: Pid, leaks: &[Leak<'_>], with_objects: bool, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "\n{RULE}\n=={pid}==ERROR: LeakSanitizer: detected memory leaks\n\n")?;
    let mut all = Tally::default();
    for Leak { kind, site, lost } in leaks {
        let (words, Tally { bytes, count }) = (kind.words(), *lost);
        writeln!(out, "{words} of {bytes} byte(s) in {count} object(s) allocated from:")?;
        write_stack(site, out)?;
        if with_objects && let Some(blocks) = &site.blocks {
            writeln!(out, "Objects leaked above:")?;
            for block in blocks.iter().filter(|block| block.verdict == Some(kind.verdict())) {
                writeln!(out, "{:#014x} ({} bytes)", block.address.0, block.size)?;
            }
            writeln!(out)?;
        }
        all.join(*lost);
    }
    writeln!(out, "SUMMARY: LeakSanitizer: {} byte(s) leaked in {} allocation(s).", all.bytes, all.count)
}

/// The frames, innermost first, and an empty line.
fn write_stack(site: &Site, out: &mut dyn Write) -> io::Result<()> {
    let Some(first) = site.stack.first() else {
        return writeln!(out, "    <empty stack>\n");
    };
    let mut number = 0;
    if !is_allocation_function(first) {
        writeln!(out, "    #0 {:#014x} in malloc {NO_MODULE}", 0)?;
        number = 1;
    }
    for frame in &site.stack {
        writeln!(out, "    #{number} {}", line(frame))?;
        number += 1;
    }
    writeln!(out)
}

/// Whether a frame is what LeakSanitizer shows as #0: an operator of C++, or a function of C, inlined into the caller.
fn is_allocation_function(frame: &Frame) -> bool {
    const OF_C: [&str; 6] = ["malloc", "calloc", "realloc", "memalign", "aligned_alloc", "posix_memalign"];
    frame.function.as_deref().is_some_and(|function| function.starts_with("operator new") || OF_C.contains(&function))
}

/// A frame behind its number. An address is that of the call's last byte, as LeakSanitizer prints it, and not the one to
/// return to.
fn line(frame: &Frame) -> String {
    let address = frame.address.0.saturating_sub(1);
    let function = frame.function.as_deref().filter(|function| !function.is_empty());
    // Without a name two spaces follow the address.
    let function = function.map(|function| format!("in {}", clean(function))).unwrap_or_default();
    format!("{address:#014x} {function} {}", place(frame, function.is_empty()))
}

/// `file:line`, or `(module+0xoffset)` where the line or the function is not known.
fn place(frame: &Frame, is_nameless: bool) -> String {
    match (&frame.file, &frame.module, frame.module_offset) {
        (Some(file), _, _) if !is_nameless => {
            let line = frame.line.map(|line| format!(":{line}")).unwrap_or_default();
            format!("{}{line}", clean(&file.to_string_lossy()))
        }
        (_, Some(module), Some(offset)) => {
            format!("({}+{:#x})", clean(&module.to_string_lossy()), offset.saturating_sub(1))
        }
        _ => NO_MODULE.to_owned(),
    }
}

/// The process in whose name the lines about the whole trace speak.
fn speaker(snapshot: &Snapshot) -> Pid {
    let target = snapshot.target.pids.first().copied();
    target.or_else(|| snapshot.processes.first().map(|process| process.pid)).unwrap_or(Pid(0))
}

/// What a reader of the reports, or of their absence, must know.
fn warnings(snapshot: &Snapshot) -> Vec<String> {
    let mut unjudged = Tally::default();
    let (mut undecided, mut probably) = (Tally::default(), Tally::default());
    for site in &snapshot.sites {
        match &site.verdict {
            Some(verdict) => {
                undecided.join(verdict.undecided);
                probably.join(verdict.probably_lost);
            }
            None => unjudged.join(Tally { bytes: site.outstanding_bytes, count: site.outstanding_count }),
        }
    }
    let was_judged = snapshot.processes.iter().any(|process| process.leak_check.is_some());
    let mut warnings = Vec::new();
    if unjudged.count > 0 {
        let which = if was_judged { " of processes that were not searched" } else { ": no leak check ran" };
        warnings.push(format!("no verdict on {}{which}; {}", amount(unjudged), next_step(snapshot)));
    }
    if probably.count > 0 {
        let amount = amount(probably);
        warnings.push(format!(
            "probably lost: {amount}, searched while the program ran; --leak-check-mode exact stops it, and knows"
        ));
    }
    if undecided.count > 0 {
        let next = match snapshot.target.mode {
            TraceMode::Pid => "; a trace from the program's start would know that memory",
            _ => "",
        };
        let amount = amount(undecided);
        warnings.push(format!("undecided: {amount} that only memory of which nothing is known points to{next}"));
    }
    warnings.extend(notices(snapshot).iter().map(super::notices::Notice::line));
    warnings
}

fn next_step(snapshot: &Snapshot) -> &'static str {
    match snapshot.target.mode {
        _ if !snapshot.is_final => "the last report has one",
        TraceMode::Pid | TraceMode::Command => "trace each process by --pid with --leak-check full",
        _ => "name processes with --pid, or launch a COMMAND",
    }
}

fn amount(tally: Tally) -> String {
    format!("{} in {}", Bytes(tally.bytes), counted(tally.count, "allocation"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Address;

    /// Of one site a block is definitely lost and one indirectly, of the other two are indirectly lost.
    fn snapshot() -> Snapshot {
        let text = r#"{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":2,"final":true,
            "target":{"mode":"command","pids":[7]},
            "processes":[{"pid":7,"comm":"a.out","outstanding_bytes":174,"outstanding_count":4,
                "leak_check":{"mode":"exact","pause_ms":0,"scanned_bytes":4096,"passes":1}}],
            "sites":[{"pid":7,"outstanding_bytes":134,"outstanding_count":2,
                "verdict":{"definitely_lost":{"bytes":10,"count":1},"indirectly_lost":{"bytes":24,"count":1}},
                "stack":[{"function":"leak","module":"/a.out","file":"/src/a.c","line":7,"address":"0x555555555139",
                    "module_offset":"0x1139"},{"function":"main","module":"/a.out","address":"0x555555555150","module_offset":"0x1150"}],
                "blocks":[{"address":"0x5555557a0010","size":10,"age_s":1,"verdict":"definitely_lost"},
                    {"address":"0x5555557a0020","size":24,"age_s":1,"verdict":"indirectly_lost"}]},
              {"pid":7,"outstanding_bytes":40,"outstanding_count":2,
                "verdict":{"indirectly_lost":{"bytes":40,"count":2}},"stack":[]}]}"#;
        Snapshot::from_json(text.as_bytes()).unwrap()
    }

    fn written(snapshot: &Snapshot, with_objects: bool) -> String {
        let mut out = Vec::new();
        write(snapshot, with_objects, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn direct_leaks_come_first_and_then_the_largest() {
        let expected = "
=================================================================
==7==ERROR: LeakSanitizer: detected memory leaks

Direct leak of 10 byte(s) in 1 object(s) allocated from:
    #0 0x000000000000 in malloc (<unknown module>)
    #1 0x555555555138 in leak /src/a.c:7
    #2 0x55555555514f in main (/a.out+0x114f)

Indirect leak of 40 byte(s) in 2 object(s) allocated from:
    <empty stack>

Indirect leak of 24 byte(s) in 1 object(s) allocated from:
    #0 0x000000000000 in malloc (<unknown module>)
    #1 0x555555555138 in leak /src/a.c:7
    #2 0x55555555514f in main (/a.out+0x114f)

SUMMARY: LeakSanitizer: 74 byte(s) leaked in 4 allocation(s).
";
        assert_eq!(written(&snapshot(), false), expected);
        let objects = written(&snapshot(), true);
        assert!(
            objects.contains("+0x114f)\n\nObjects leaked above:\n0x5555557a0010 (10 bytes)\n\nIndirect"),
            "{objects}"
        );
    }

    #[test]
    fn each_process_has_its_report() {
        let mut snapshot = snapshot();
        snapshot.sites[1].pid = Pid(8);
        let text = written(&snapshot, false);
        assert!(text.contains("==7==ERROR") && text.contains("==8==ERROR"), "{text}");
        assert!(text.contains("34 byte(s) leaked in 2") && text.contains("40 byte(s) leaked in 2"), "{text}");
    }

    #[test]
    fn without_leaks_nothing_is_said_and_without_a_verdict_that() {
        let mut snapshot = snapshot();
        for site in &mut snapshot.sites {
            site.verdict = Some(crate::model::Verdict::default());
        }
        assert_eq!(written(&snapshot, true), "");
        snapshot.processes[0].leak_check = None;
        for site in &mut snapshot.sites {
            site.verdict = None;
        }
        let line = "==7==WARNING: leaktrace: no verdict on 174 B in 4 allocations: no leak check ran; trace each process by \
                    --pid with --leak-check full\n";
        assert_eq!(written(&snapshot, true), line);
    }

    #[test]
    fn losses_and_undecided_blocks_are_said() {
        let mut snapshot = snapshot();
        snapshot.losses.returns_missed = 1;
        snapshot.sites[1].verdict.as_mut().unwrap().undecided = Tally { bytes: 5, count: 1 };
        let text = written(&snapshot, false);
        assert!(text.starts_with("==7==WARNING: leaktrace: undecided: 5 B in 1 allocation that"), "{text}");
        assert!(text.contains("\n==7==WARNING: leaktrace: 1 return of allocation functions missed; "), "{text}");
    }

    #[test]
    fn frames_have_the_forms_of_the_original() {
        let mut frame = Frame::unresolved(Address(0x7f12_0000_0001));
        assert_eq!(line(&frame), "0x7f1200000000  (<unknown module>)");
        frame.module = Some("/usr/lib/libx.so.1".into());
        frame.module_offset = Some(0x1139);
        assert_eq!(line(&frame), "0x7f1200000000  (/usr/lib/libx.so.1+0x1138)");
        frame.function = Some("f\u{1b}(int)".into());
        assert_eq!(line(&frame), "0x7f1200000000 in f?(int) (/usr/lib/libx.so.1+0x1138)");
        frame.file = Some("/src/x.c".into());
        frame.line = Some(3);
        assert_eq!(line(&frame), "0x7f1200000000 in f?(int) /src/x.c:3");
    }
}
