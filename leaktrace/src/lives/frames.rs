//! The frames on a thread's stack, by the call frame instructions of the files that the stack leads through.
//!
//! In: a thread's registers, a copy of its stack, where code lies. Out: where each frame lies, and what runs in it. A walk ends
//! where no file says how it goes on: a frame is never guessed.

use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::elf;
use crate::host::patience::{self, About};
use crate::model::Address;
use crate::process::maps::{AddressSpace, Object, ObjectId};
use crate::unwind_tables::{INSTRUCTION, STACK_POINTER, caller};

/// What functions may use below the stack pointer, bytes (System V ABI for x86-64, "The Stack Frame").
pub const RED_ZONE: u64 = 128;
/// Most frames of a stack that are told apart.
const FRAMES: usize = 256;
/// Larger files are not read for a stack, bytes in memory.
const LARGEST: u64 = 256 << 20;

/// Registers by their numbers in DWARF.
pub type Registers = crate::unwind_tables::Frame;

/// A frame on a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameAt {
    /// Where it lies.
    pub bytes: Range<u64>,
    /// What runs in it: the next instruction.
    pub address: Address,
    /// Nothing was called: the instruction is what the thread was about to execute.
    pub is_innermost: bool,
}

/// The frames of a thread, the innermost first, which lie one behind the other.
pub fn frames(
    space: &AddressSpace,
    registers: Registers,
    read: &dyn Fn(u64) -> Option<u64>,
    contents: &mut Contents,
) -> Vec<FrameAt> {
    let (mut frames, mut frame) = (Vec::new(), registers);
    while frames.len() < FRAMES {
        let (address, is_innermost) = (Address(frame[INSTRUCTION]), frames.is_empty());
        // A return address may lie behind the function.
        let inside = if is_innermost { address } else { Address(address.0.wrapping_sub(1)) };
        let Some(outer) = contents.caller(space, inside, &frame, read) else { break };
        let (from, to) = (frame[STACK_POINTER], outer[STACK_POINTER]);
        if to <= from {
            break;
        }
        let from = if is_innermost { from.saturating_sub(RED_ZONE) } else { from };
        frames.push(FrameAt { bytes: from..to, address, is_innermost });
        frame = outer;
    }
    frames
}

/// What files contain that stacks lead through.
#[derive(Default)]
pub struct Contents(HashMap<ObjectId, Option<Loaded>>);

type Loaded = Box<dyn Deref<Target = [u8]> + Send>;

impl Contents {
    fn caller(
        &mut self,
        space: &AddressSpace,
        inside: Address,
        frame: &Registers,
        read: &dyn Fn(u64) -> Option<u64>,
    ) -> Option<Registers> {
        let place = space.locate(inside)?;
        let object = place.object?;
        let loaded = self.0.entry(object.id()).or_insert_with(|| load(object));
        caller(loaded.as_deref()?, object.virtual_address(place.offset)?, frame, read)
    }
}

/// What is loaded of a file, unless its file system does not answer or it is too large.
fn load(object: &Arc<Object>) -> Option<Loaded> {
    if object.segments().iter().fold(0, |sum: u64, segment| sum.saturating_add(segment.size)) > LARGEST {
        return None;
    }
    let (device, inode) = object.inode().unwrap_or_default();
    let object = Arc::clone(object);
    let question = move || elf::what_is_loaded(&object.open().ok()?).ok();
    let bytes = patience::within(patience::read_within(), About::File(device, inode), question).flatten()?;
    Some(Box::new(bytes))
}
