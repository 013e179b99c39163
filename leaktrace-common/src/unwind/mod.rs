//! Stack unwinding in 8-byte rows: the pure part, compiled for the kernel program and for the host alike.
//!
//! In: three registers, one [`Rule`] found for the instruction pointer, and a way to read the stack. Out: the caller's
//! registers, or the named reason why the walk ends. The tables that rules come from are built in userspace from
//! `.eh_frame`; how they are laid in memory and searched is here too, because both sides must agree on it bit by bit.
//!
//! Invariant: no allocation, no panic, no unbounded loop, nothing that reads memory but through [`Memory`] and
//! [`Chunks`]; the BPF verifier sees this code inlined into the walker.

mod cache;
mod files;
mod mappings;
mod rule;
mod step;
mod stop;
mod table;
mod walk;

pub use cache::{CACHE_SLOTS, CacheKey, cache_word, cached_rule, goes_second};
pub use files::{FileKey, FileTable};
pub use mappings::{MAPPING_WORDS, MAPPINGS_PER_CHUNK, Mapping, ProcessWord, Table, find_mapping};
pub use rule::{Kind, Row, Rule};
pub use step::{Memory, Next, Regs, by_frame_pointer, step, step_plain};
pub use stop::Stop;
pub use table::{CHUNK_WORDS, Chunk, Chunks, PADDING, lookup};
pub use walk::{Walk, find_rule, is_cacheable};
