//! Names for the frames of a capture: all addresses of all processes in one batch.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use crate::model::{Address, Capture, Code, Frame, Named, RawProcess, SiteId, Snapshot};
use crate::process::maps::AddressSpace;
use crate::symbolize::{CodeAddress, Symbolizer};

/// Address spaces by the number of their life, as they were at a capture. Later changes leave them alone, but for the names of
/// code made at run time, which are those that its compiler has written by the time of naming.
pub type Spaces = HashMap<u32, AddressSpace>;

/// Turns a capture into a snapshot with names.
pub fn name(capture: Capture, spaces: &Spaces, symbolizer: &mut Symbolizer) -> Snapshot {
    let mut wanted: HashMap<u32, Vec<CodeAddress>> = HashMap::new();
    for site in capture.reported_sites() {
        if let Some(process) = capture.processes.get(site.process) {
            let addresses = wanted.entry(process.life).or_default();
            addresses.extend(site.frames.iter().map(|address| CodeAddress::returning(*address)));
        }
    }
    for addresses in wanted.values_mut() {
        addresses.sort_unstable_by_key(|address| address.address);
        addresses.dedup();
    }
    let batch: Vec<(u32, &AddressSpace, &[CodeAddress])> =
        wanted.iter().filter_map(|(life, addresses)| Some((*life, spaces.get(life)?, addresses.as_slice()))).collect();
    let request: Vec<(&AddressSpace, &[CodeAddress])> =
        batch.iter().map(|(_, space, addresses)| (*space, *addresses)).collect();
    let names = symbolizer.resolve_batch(&request);
    let mut known: HashMap<(u32, Address), Vec<Arc<Frame>>> = HashMap::new();
    for ((life, _, addresses), frames) in batch.iter().zip(names) {
        let shared = |frames: Vec<Frame>| frames.into_iter().map(Arc::new).collect();
        known.extend(addresses.iter().zip(frames).map(|(address, frames)| ((*life, address.address), shared(frames))));
    }
    let mut resolver = |process: &RawProcess, stack: &[Address]| -> Named {
        let of = |address: &Address| known.get(&(process.life, *address)).map_or(&[][..], Vec::as_slice);
        let frames = stack.iter().flat_map(|address| match of(address) {
            [] => vec![Arc::new(Frame::unresolved(*address))],
            frames => frames.to_vec(),
        });
        let space = spaces.get(&process.life);
        let id = SiteId::of(stack.iter().map(|address| code(space, *address, of(address))));
        Named { frames: frames.collect(), id }
    };
    capture.into_snapshot(&mut resolver)
}

/// Where the code that returns to an address comes from; `frames` are those at the address.
fn code<'a>(space: Option<&'a AddressSpace>, address: Address, frames: &'a [Arc<Frame>]) -> Code<'a> {
    let call = CodeAddress::returning(address).lookup();
    let object =
        space.and_then(|space| space.locate(call)).and_then(|location| Some((location.object?, location.offset)));
    let Some((object, offset)) = object else {
        let function = frames.last().and_then(|frame| frame.function.as_deref());
        return function.map_or(Code::Unknown, Code::Made);
    };
    let offset = object.virtual_address(offset).unwrap_or(offset);
    match object.build_id() {
        Some(id) => Code::Built(id, offset),
        None => Code::File(object.path().as_os_str().as_bytes(), offset),
    }
}
