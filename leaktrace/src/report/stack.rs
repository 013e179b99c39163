//! A site's stack in the text report: a line for each frame, innermost first, as short as possible without loss of meaning.
//!
//! A recursion is printed once, with the number of repetitions. Of a stack that is still too long the middle is left out,
//! with its length: the innermost frames show what allocates, the outermost on whose behalf. Every other output has all
//! frames.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use super::human::counted;
use super::names;
use super::style::{Paint, TextStyle};
use crate::clean::{clean, elide};
use crate::model::{Frame, Options, Site, StackState};

const FUNCTION: Style = AnsiColor::Cyan.on_default();
const PLACE: Style = Style::new().dimmed();
const INDENT: usize = 4;
/// The longest sequence of frames that is recognised as a recursion.
const LONGEST_CYCLE: usize = 8;
/// Lines that a stack may have.
const MOST_LINES: usize = 64;
/// Of a longer stack, the number of lines next to the allocation.
const INNERMOST: usize = 40;
const OUTERMOST: usize = MOST_LINES - INNERMOST - 1;

/// Writes the frames, and what is to be known of them.
pub fn write(site: &Site, style: TextStyle, options: &Options, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    if site.stack.is_empty() {
        writeln!(out, "    {}", names::NO_STACK)?;
    }
    let columns = style.width.map(|width| width.saturating_sub(INDENT));
    let frames: Vec<_> = site.stack.iter().map(|frame| SameCode(frame)).collect();
    for line in abridged(&frames) {
        match line {
            Line::Frame(SameCode(frame)) => {
                let (function, place) = fit(frame, columns);
                let gap = if place.is_empty() { "" } else { "  " };
                writeln!(out, "    {}{gap}{}", paint.with(FUNCTION, &function), paint.with(PLACE, &place))?;
            }
            Line::Again { frames: 1, times } => writeln!(out, "    [this frame {} more]", counted(times, "time"))?,
            Line::Again { frames, times } => {
                writeln!(out, "    [these {frames} frames {} more]", counted(times, "time"))?;
            }
            Line::LeftOut(frames) => writeln!(out, "    [{} not shown]", counted(frames, "frame"))?,
        }
    }
    let note = match site.stack_state {
        Some(StackState::Cut) if !site.truncated && !site.stack.is_empty() => "[outer frames are missing]",
        Some(StackState::Guessed | StackState::Gap) => "[callers may be missing in between]",
        Some(StackState::Unsure) => "[code was replaced here: names may be of what came later]",
        _ => "",
    };
    if !note.is_empty() {
        writeln!(out, "    {note}")?;
    }
    if site.truncated {
        writeln!(out, "    [cut at {}]", counted(u64::from(options.max_depth), "frame"))?;
    }
    Ok(())
}

/// A frame that equals others whose full names would be printed alike.
struct SameCode<'a>(&'a Frame);

impl PartialEq for SameCode<'_> {
    fn eq(&self, SameCode(other): &Self) -> bool {
        let Frame { function, symbol: _, module, file, line, inlined, address, module_offset } = self.0;
        let is_same_place = match (function, module_offset) {
            (Some(_), _) => true,
            (None, Some(_)) => *module_offset == other.module_offset,
            // Such as code made at run time: nothing but its address is printed.
            (None, None) => other.module_offset.is_none() && *address == other.address,
        };
        (function, module, file, line, inlined)
            == (&other.function, &other.module, &other.file, &other.line, &other.inlined)
            && is_same_place
    }
}

/// What stands in one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line<'a, F> {
    Frame(&'a F),
    /// The preceding lines, this many, repeat.
    Again {
        frames: usize,
        times: u64,
    },
    LeftOut(u64),
}

impl<F> Line<'_, F> {
    /// The frames of the stack that it stands for.
    fn frames(&self) -> u64 {
        match *self {
            Self::Frame(_) => 1,
            Self::Again { frames, times } => frames as u64 * times,
            Self::LeftOut(frames) => frames,
        }
    }
}

/// The lines of a stack.
fn abridged<F: PartialEq>(frames: &[F]) -> Vec<Line<'_, F>> {
    let mut lines = Vec::new();
    let mut rest = frames;
    while let Some((first, others)) = rest.split_first() {
        if let Some((cycle, times)) = cycle(rest) {
            lines.extend(rest[..cycle].iter().map(Line::Frame));
            lines.push(Line::Again { frames: cycle, times: times as u64 - 1 });
            rest = &rest[cycle * times..];
        } else {
            lines.push(Line::Frame(first));
            rest = others;
        }
    }
    if lines.len() > MOST_LINES {
        let middle = INNERMOST..lines.len() - OUTERMOST;
        let left_out = lines[middle.clone()].iter().map(Line::frames).sum();
        lines.splice(middle, [Line::LeftOut(left_out)]);
    }
    lines
}

/// Whether the first frames are a recursion worth a line of its own: how many frames long, and how often.
fn cycle<F: PartialEq>(frames: &[F]) -> Option<(usize, usize)> {
    (1..=LONGEST_CYCLE.min(frames.len() / 2)).find_map(|length| {
        let (first, _) = frames.split_at(length);
        let times = frames.chunks_exact(length).take_while(|chunk| *chunk == first).count();
        (times > 2 || (times == 2 && length > 2)).then_some((length, times))
    })
}

/// A frame's function and place, shortened where they would not fit: first the file's directories go, then the middle of
/// the function's name, which for templates is the part that says least.
fn fit(frame: &Frame, columns: Option<usize>) -> (String, String) {
    const SHORTEST_FUNCTION: usize = 24;
    let function = names::function(frame);
    let file = frame.file.as_ref().map(|file| clean(&file.to_string_lossy()).into_owned());
    let full = place(frame, file.as_deref());
    let length = |text: &str| text.chars().count();
    let Some(columns) = columns else { return (function, full) };
    if length(&function) + 2 + length(&full) <= columns {
        return (function, full);
    }
    let short = place(frame, frame.file.as_deref().map(names::base_name).as_deref());
    let room = columns.saturating_sub(2 + length(&short)).max(SHORTEST_FUNCTION);
    (elide(&function, room), short)
}

/// `file:line (module)` with the parts that are known.
fn place(frame: &Frame, file: Option<&str>) -> String {
    let line = frame.line.map(|line| format!(":{line}")).unwrap_or_default();
    let mut parts = Vec::new();
    parts.extend(file.map(|file| format!("{file}{line}")));
    // If there is no symbol, the module is already part of the name.
    let named = frame.function.is_some() || frame.module_offset.is_none();
    parts.extend(frame.module.as_deref().filter(|_| named).map(|module| format!("({})", names::base_name(module))));
    parts.extend(frame.inlined.then(|| "[inlined]".to_owned()));
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Address;

    fn frame() -> Frame {
        Frame {
            function: Some("std::vector<std::pair<int, std::string>, Allocator>::push_back".into()),
            symbol: None,
            module: Some("/opt/server/bin/server".into()),
            file: Some("/home/build/server/src/cache/store.cpp".into()),
            line: Some(120),
            inlined: false,
            address: Address(0x55),
            module_offset: Some(0x1139),
        }
    }

    #[test]
    fn recursion_is_told_once_and_how_often() {
        let stack =
            ["leak", "visit", "visit", "visit", "visit", "parse", "expr", "parse", "expr", "parse", "expr", "main"];
        let lines = abridged(&stack);
        let frame = |name| Line::Frame(stack.iter().find(|frame| **frame == name).unwrap());
        assert_eq!(
            lines,
            [
                frame("leak"),
                frame("visit"),
                Line::Again { frames: 1, times: 3 },
                frame("parse"),
                frame("expr"),
                Line::Again { frames: 2, times: 2 },
                frame("main")
            ]
        );
        assert_eq!(lines.iter().map(Line::frames).sum::<u64>(), stack.len() as u64);
    }

    #[test]
    fn what_comes_twice_by_chance_stays() {
        assert_eq!(abridged(&["a", "a", "b"]).len(), 3);
        assert_eq!(abridged(&["a", "b", "a", "b"]).len(), 4);
    }

    #[test]
    fn of_a_long_stack_both_ends_are_shown_and_every_frame_is_counted() {
        let stack: Vec<usize> = (0..1024).collect();
        let lines = abridged(&stack);
        assert_eq!(lines.len(), MOST_LINES);
        assert_eq!((lines[0], lines[MOST_LINES - 1]), (Line::Frame(&0), Line::Frame(&1023)));
        assert_eq!(lines[INNERMOST], Line::LeftOut(1024 - (MOST_LINES as u64 - 1)));
        assert_eq!(lines.iter().map(Line::frames).sum::<u64>(), 1024);
        assert_eq!(abridged(&stack[..MOST_LINES]).len(), MOST_LINES);
    }

    #[test]
    fn a_frame_that_fits_is_shown_whole() {
        let (function, place) = fit(&frame(), Some(200));
        assert_eq!(function, "std::vector<std::pair<int, std::string>, Allocator>::push_back");
        assert_eq!(place, "/home/build/server/src/cache/store.cpp:120 (server)");
    }

    #[test]
    fn directories_go_first_then_the_middle_of_the_name() {
        assert_eq!(fit(&frame(), Some(100)).1, "store.cpp:120 (server)");
        let (function, place) = fit(&frame(), Some(60));
        assert_eq!(function, "std::vector<std::p…cator>::push_back");
        assert_eq!(function.chars().count() + 2 + place.chars().count(), 60);
    }

    #[test]
    fn without_symbol_the_module_is_named_once() {
        let bare = Frame { function: None, file: None, line: None, ..frame() };
        assert_eq!(fit(&bare, None), ("server+0x1139".to_owned(), String::new()));
    }

    #[test]
    fn frames_without_function_and_module_are_told_apart_by_their_addresses() {
        let stack = [1, 2, 3, 3, 3, 3].map(|address| Frame::unresolved(Address(address)));
        let frames: Vec<_> = stack.iter().map(SameCode).collect();
        let lines = abridged(&frames);
        let folded = |line: &Line<'_, _>| matches!(line, Line::Again { frames: 1, times: 3 });
        assert!(lines.len() == 4 && folded(&lines[3]), "{} lines", lines.len());
        assert!(
            SameCode(&frame()) == SameCode(&Frame { address: Address(0x66), ..frame() }),
            "one function, another call"
        );
        let bare = Frame { function: None, ..frame() };
        assert!(SameCode(&bare) == SameCode(&Frame { address: Address(0x66), ..bare.clone() }), "mapped elsewhere");
        assert!(SameCode(&bare) != SameCode(&Frame { module_offset: None, ..bare.clone() }));
    }
}
