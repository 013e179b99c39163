//! Allocators that are in a program without a name: linked in, and their symbols stripped.
//!
//! They cannot be probed, but what cannot be traced must be said. They show by the messages they would print.

use memchr::memmem;

use super::role::Allocator;
use crate::probes::image::Image;

/// Text that an allocator's code carries, and programs that merely use it do not. It stands here backwards, so that a
/// program with this very code in it does not look like it had them all.
const MESSAGES: &[(&[u8], Allocator)] = &[
    (b" :>collamej<", Allocator::Jemalloc),
    (b" colla egral :collamct", Allocator::Tcmalloc),
    (b" :gninraw :collamim", Allocator::Mimalloc),
];

/// glibc's own; in a program that links it as a library it can only come from elsewhere.
const STATIC_MESSAGES: &[(&[u8], Allocator)] = &[(b"retniop dilavni :)(eerf", Allocator::Glibc)];

/// The allocator whose messages are in the image's constants.
pub(super) fn find(image: &Image<'_>) -> Option<Allocator> {
    let is_static = !image.has_interpreter() && !image.needs_others();
    let mut messages = MESSAGES.iter().chain(if is_static { STATIC_MESSAGES } else { &[] });
    let is_there = |backwards: &[u8]| {
        let message: Vec<u8> = backwards.iter().rev().copied().collect();
        let finder = memmem::Finder::new(&message);
        image.constant_ranges().any(|bytes| finder.find(bytes).is_some())
    };
    messages.find(|(message, _)| is_there(message)).map(|(_, allocator)| *allocator)
}
