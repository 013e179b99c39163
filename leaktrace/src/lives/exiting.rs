//! Where a thread that ends its process came from: the frame that has called `exit` of the C library.
//!
//! The frames of `exit` and of what it calls cover what the program had below, and do not overwrite all of it. So what is there
//! is not the program's any more, and neither is what is in registers that a call need not keep.

use std::ops::Range;
use std::sync::Arc;

use crate::elf::{self, Elf, Symbol, SymbolKind, Symbols};
use crate::host::patience::{self, About};
use crate::model::Address;
use crate::process::maps::{AddressSpace, Object};
use crate::unwind_tables::{Frame, INSTRUCTION, STACK_POINTER, caller};

/// The functions by which programs end themselves.
const ENDS: [&[u8]; 4] = [b"exit", b"_exit", b"_Exit", b"quick_exit"];
/// The longest of these names, bytes.
const LONGEST: usize = 10;
/// How many frames they have at most.
const FRAMES: usize = 16;

/// The registers that a call keeps, by their numbers in DWARF: rbx, rbp, r12 to r15.
const KEPT: [usize; 6] = [3, 6, 12, 13, 14, 15];

/// A frame that has called a function that does not return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The top of its stack.
    pub stack_pointer: u64,
    /// The registers that its callees had to keep.
    pub kept: [u64; KEPT.len()],
}

/// What has called the function by which a thread ends its process, given the thread's registers in the kernel by their numbers
/// in DWARF. `None` where the thread is in no such function, or that cannot be found out.
pub fn before_exit(space: &AddressSpace, thread: Frame, read: &dyn Fn(u64) -> Option<u64>) -> Option<Caller> {
    let library = Arc::clone(space.locate(Address(thread[INSTRUCTION]))?.object?);
    let bytes = content(&library)?;
    let ends = functions(&bytes);
    let (mut frame, mut found) = (thread, None);
    for _ in 0..FRAMES {
        // A return address may lie behind the function. What the first frame executes is done, too.
        let Some(place) = space.locate(Address(frame[INSTRUCTION].wrapping_sub(1))) else { break };
        if !place.object.is_some_and(|object| Arc::ptr_eq(object, &library)) {
            break;
        }
        let Some(address) = library.virtual_address(place.offset) else { break };
        let outer = caller(&bytes, address, &frame, read).filter(|outer| outer[STACK_POINTER] > frame[STACK_POINTER]);
        if ends.iter().any(|function| function.contains(&address)) {
            found = outer;
        }
        let Some(outer) = outer else { break };
        frame = outer;
    }
    found.map(|frame| Caller { stack_pointer: frame[STACK_POINTER], kept: KEPT.map(|number| frame[number]) })
}

/// What a file contains, unless its file system does not answer.
fn content(object: &Arc<Object>) -> Option<Vec<u8>> {
    let (device, inode) = object.inode().unwrap_or_default();
    let object = Arc::clone(object);
    let question = move || Some(elf::what_is_loaded(&object.open().ok()?).ok()?.to_vec());
    patience::within(patience::read_within(), About::File(device, inode), question).flatten()
}

/// Where the functions are by which programs end.
fn functions(bytes: &[u8]) -> Vec<Range<u64>> {
    let Ok(sections) = Elf::read(bytes).and_then(|elf| elf.sections()) else { return Vec::new() };
    let tables = sections.iter().filter(|section| section.name == ".dynsym" || section.name == ".symtab");
    let mut found = Vec::new();
    for table in tables {
        let strings = sections.get(table.link).and_then(|strings| strings.data(&bytes).ok());
        let (Ok(entries), Some(strings)) = (table.data(&bytes), strings) else { continue };
        let symbols = Symbols::new(entries, strings);
        let is_end = |symbol: &Symbol| {
            symbol.kind == SymbolKind::Function
                && symbols.name(symbol, LONGEST).is_some_and(|name| ENDS.contains(&name))
        };
        found.extend(symbols.iter().filter(is_end).map(|end| end.address..end.address.saturating_add(end.size)));
    }
    found
}
