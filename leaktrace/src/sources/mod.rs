//! Where events come from. Each kind of source is a room of its own that finds its places in mapped files and has the
//! programs attached there.

pub(crate) mod allocators;
