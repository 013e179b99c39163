//! Growth: what keeps growing, how fast, and whether that is a leak.
//!
//! In: counters read again and again ([`rings`]), the ages of the outstanding blocks, the longest life of a freed block. Out: a
//! verdict for each site, with its reason ([`rule`]), and the shape of its outstanding bytes ([`trend`]). Pure.
//!
//! A slope says little: memory that fills a cache rises as a leak does. What tells a leak is that blocks stay for longer than any
//! block of the same site has lived that was freed, and that more of them keep coming.

pub mod rings;
pub mod rule;
mod sites;
pub mod trend;

pub use sites::judge;
