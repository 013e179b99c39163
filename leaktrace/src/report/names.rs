//! What frames, processes and targets are called in every format.
//!
//! Names come from the traced processes and may contain any characters; every name from this module is safe to print.

use std::path::Path;

use crate::clean::{clean, elide};
use crate::model::{Frame, Process, Site, Snapshot, TraceMode};

/// Replaces the frames of a site whose stack could not be recorded.
pub const NO_STACK: &str = "[no stack recorded]";

/// Most characters of a traced command that are shown: it shares one line with the totals.
const LONGEST_COMMAND: usize = 80;

/// The function, or `module+0xoffset` where no symbol covers the address, or the bare address.
pub fn function(frame: &Frame) -> String {
    clean(&frame.name()).into_owned()
}

/// The last part of a path: `libc.so.6` of `/usr/lib/libc.so.6`; names such as `[vdso]` as they are.
pub fn base_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    clean(&name.to_string_lossy()).into_owned()
}

/// The process of a site as `comm-pid`; `comm-ended` for many.
pub fn process(snapshot: &Snapshot, site: &Site) -> String {
    let process = snapshot.process_of(site);
    let comm = process.map_or("", |process| process.comm.as_str());
    let comm = clean(if comm.is_empty() { "?" } else { comm });
    match process.map_or(0, |process| process.merged) {
        0 => format!("{comm}-{}", site.pid),
        _ => format!("{comm}-ended"),
    }
}

/// What was traced: `server (pid 12)`, `./a.out -x (pid 12)`, `every process (17 seen)`.
pub fn target(snapshot: &Snapshot) -> String {
    let seen = snapshot.processes.iter().fold(0u64, |sum, process| sum.saturating_add(process.merged.max(1)));
    match snapshot.target.mode {
        TraceMode::Command => {
            let command = elide(&snapshot.target.command.join(" "), LONGEST_COMMAND);
            let pid = snapshot.target.pids.first().map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            format!("{}{pid}", clean(&command))
        }
        TraceMode::System => format!("every process ({seen} seen)"),
        TraceMode::Kernel => "the kernel".to_owned(),
        TraceMode::Filter => format!("every process that matches ({seen} seen)"),
        TraceMode::Pid | TraceMode::Grow | TraceMode::Unknown => match snapshot.processes.as_slice() {
            [] => {
                format!("pid {}", snapshot.target.pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
            [only] => one(only),
            [first, second, third] => format!("{}, {} and {}", one(first), one(second), one(third)),
            [first, second] => format!("{} and {}", one(first), one(second)),
            [first, second, rest @ ..] => format!("{}, {} and {} more processes", one(first), one(second), rest.len()),
        },
    }
}

/// A process: `server (pid 12)`, `server (pid 12, ended)`.
pub fn one(process: &Process) -> String {
    let comm = clean(if process.comm.is_empty() { "?" } else { &process.comm });
    match (process.merged, process.exited) {
        (0, true) => format!("{comm} (pid {}, ended)", process.pid),
        (0, false) => format!("{comm} (pid {})", process.pid),
        (merged, _) => format!("{comm} ({merged} times, ended)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Address;

    #[test]
    fn a_frame_without_symbol_is_module_and_offset() {
        let mut frame = Frame::unresolved(Address(0x7f12));
        assert_eq!(function(&frame), "0x7f12");
        frame.module = Some("/usr/lib/libx.so.1".into());
        assert_eq!(function(&frame), "0x7f12");
        frame.module_offset = Some(0x1139);
        assert_eq!(function(&frame), "libx.so.1+0x1139");
        frame.function = Some("leak".into());
        assert_eq!(function(&frame), "leak");
    }
}
