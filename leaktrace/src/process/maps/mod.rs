//! What lies where in a traced process, kept so that its addresses can be named after it has unmapped, replaced or
//! deleted the file, or has ended.
//!
//! In: the text of `/proc/PID/maps`, and one descriptor per executable file, taken while the process lives. Out:
//! [`AddressSpace::locate`]: for an address, the object (with its descriptor) and the offset in it.
//!
//! - [`parse()`] is pure: bytes in, [`Mapping`]s out.
//! - [`AddressSpace`] is one process' executable mappings, including those it has dropped since.
//! - [`Pooled`] lays many processes' code into one address space.
//! - [`ObjectStore`] holds one descriptor per file for all processes, within a budget.
//! - [`JitSymbols`] is what a just-in-time compiler says of its code in `/tmp/perf-PID.map`.
//!
//! Invariant: nothing here looks at symbols, and nothing is ever opened by a path alone: a file found by path counts only
//! when it is the inode that the process has mapped.

mod files;
mod jit;
mod layout;
mod object;
mod parse;
mod perf_map;
mod pooled;
mod space;
mod store;

pub use files::Root;
pub use jit::{JitSymbol, JitSymbols};
pub use layout::read_layout;
pub use object::{Object, ObjectId};
pub use parse::{Device, Malformed, Mapping, MappingName, Permissions, parse};
pub use pooled::Pooled;
pub use space::{AddressSpace, CaptureError, Layout, Loaded, Location, Place, Settler};
pub use store::ObjectStore;
