//! What the BPF programs and userspace share: the layout of everything in a map, the lock-free table that holds
//! blocks, sites and threads, and the pure steps both sides run.
//!
//! Nothing here allocates, panics or does I/O, and everything compiles for `bpfel-unknown-none`.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(target_arch = "bpf", allow(internal_features, reason = "the BPF target has no other road to cmpxchg"))]
#![expect(
    clippy::inline_always,
    reason = "in a BPF program what is not inlined is a call that the verifier walks apart"
)]

pub mod abi;
pub mod atomic;
pub mod cookie;
pub mod drawn;
pub mod flow;
pub mod sampling;
pub mod table;
pub mod unwind;
pub mod whole;
pub mod wide;
