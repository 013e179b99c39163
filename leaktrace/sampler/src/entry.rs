//! Where the program's calls arrive: a few instructions for each function, which end in a jump to the real one.
//!
//! In: a call of the program, with its arguments in registers. Out: a jump to the real function with the same arguments, or to
//! `crate::slow`. What stands here leaves the stack alone, so that a call which throws or unwinds never meets us.

#[cfg_attr(target_arch = "x86_64", path = "entry/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "entry/aarch64.rs")]
mod machine;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the sampler has instructions for x86-64 and aarch64 only");

pub use machine::*;
