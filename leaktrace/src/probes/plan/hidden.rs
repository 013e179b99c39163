//! Allocators that are linked into a program whose symbols are stripped.
//!
//! They cannot be probed, and the report must say so. They are recognised by their error messages.

use memchr::memmem;

use super::role::Allocator;
use crate::probes::image::Image;

/// Text that an allocator's code contains, and programs that merely use the allocator do not. It is stored backwards, so
/// that a program that contains this module is not taken for one with all of these allocators.
const MESSAGES: &[(&[u8], Allocator)] = &[
    (b" :>collamej<", Allocator::Jemalloc),
    (b" colla egral :collamct", Allocator::Tcmalloc),
    (b" :gninraw :collamim", Allocator::Mimalloc),
];

/// glibc's own message; in a program that is linked dynamically it can only come from elsewhere.
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
