//! What to probe in an object, and where: a pure function of the object's bytes.
//!
//! [`functions`] knows names, [`image`] reads images, [`site`] finds the cheapest instruction of a function at which a
//! probe sees what it would see at the entry, and [`plan`] puts them together: an image goes in, the probes of that
//! object come out. Nothing in here opens a file, reads /proc or attaches anything.

pub mod functions;
pub mod image;
pub mod plan;
pub mod site;
