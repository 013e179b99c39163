//! The two pieces of code that a process must have itself, since nothing is added to its code.
//!
//! In: a process and its mappings. Out: two addresses, the bytes at which were read.

use std::fs;

use memchr::memmem;

use super::Refused;
use crate::host::patience::{self, About};
use crate::model::{Address, Pid};
use crate::process::maps::{MappingName, parse};
use crate::process::memory::Reader;

/// `syscall; ret`.
const CALL: [u8; 3] = [0x0f, 0x05, 0xc3];
/// `mov $15, %rax; syscall`, with which the C libraries end a signal handler, in the two ways in which assemblers write it.
const RESTORES: [&[u8]; 2] = [&[0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05], &[0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05]];
/// The longest of them.
const LONGEST: usize = 9;
/// How much code is searched at most, and at once, bytes.
const SEARCHED: u64 = 64 << 20;
const AT_ONCE: usize = 1 << 20;

/// Where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gadgets {
    /// Makes a system call, then returns.
    pub(super) call: u64,
    /// Loads all registers from the frame below the stack pointer.
    pub(super) restore: u64,
}

impl Gadgets {
    /// Searches the code of the files that `pid` has mapped, that of the C library first.
    pub(super) fn find(pid: Pid) -> Result<Self, Refused> {
        // Pages of code that are not in memory come from a file system, which may not answer.
        let found = patience::within(patience::ANSWERS_WITHIN, About::Process(pid.0), move || search(pid));
        found.flatten().ok_or(Refused::Code(pid))
    }

    /// Whether they are there now.
    pub(super) fn are_in(self, reader: &Reader) -> bool {
        let has = |address, bytes: &[u8]| {
            let mut there = [0; LONGEST];
            let there = &mut there[..bytes.len()];
            reader.read_exact(Address(address), there).is_ok() && there == bytes
        };
        has(self.call, &CALL) && RESTORES.iter().any(|restore| has(self.restore, restore))
    }
}

fn search(pid: Pid) -> Option<Gadgets> {
    let text = fs::read(format!("/proc/{pid}/maps")).ok()?;
    let reader = Reader::open(pid).ok()?;
    let mut code: Vec<_> = parse(&text)
        .filter_map(Result::ok)
        .filter(|it| it.permissions.execute && it.permissions.read && !it.permissions.write)
        .filter_map(|it| match &it.name {
            MappingName::File { path, .. } => {
                let name = path.file_name()?.to_string_lossy();
                Some((!name.starts_with("libc") && !name.starts_with("ld-musl"), it.start.0..it.end.0))
            }
            _ => None,
        })
        .collect();
    code.sort_by_key(|(is_other, range)| (*is_other, range.start));
    let (mut call, mut restore, mut left) = (None, None, SEARCHED);
    let mut buffer = vec![0; AT_ONCE];
    for (_, range) in code {
        let mut start = range.start;
        while start < range.end && left > 0 {
            let length = (range.end - start).min(AT_ONCE as u64);
            let bytes = &mut buffer[..length as usize];
            if reader.read_exact(Address(start), bytes).is_err() {
                break;
            }
            let at = |needle: &[u8]| memmem::find(bytes, needle).map(|offset| start + offset as u64);
            call = call.or_else(|| at(&CALL));
            restore = restore.or_else(|| RESTORES.iter().find_map(|needle| at(needle)));
            if let (Some(call), Some(restore)) = (call, restore) {
                return Some(Gadgets { call, restore });
            }
            left = left.saturating_sub(length);
            // What lies across the end of one portion is whole in the next.
            start += if start + length == range.end { length } else { length - LONGEST as u64 };
        }
    }
    None
}
