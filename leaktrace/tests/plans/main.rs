//! From images to probes: discovery, roles, what is left out, and images that mean no good.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may stop at the first surprise, its helpers too")]

mod annotations;
mod discovery;
mod image;
mod installed;
mod malformed;
mod wrappers;
