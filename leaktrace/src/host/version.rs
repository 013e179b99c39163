//! The running kernel's version, and the machine's name.

use crate::model::{Reproduction, Versions};

/// Major and minor number; (0, 0) where the kernel does not tell.
pub fn version() -> (u32, u32) {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let mut numbers = release.iter().flat_map(|release| release.split(|c: char| !c.is_ascii_digit())).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}

/// This machine and this command line, as a snapshot names them.
pub fn reproduction() -> Reproduction {
    let name = nix::sys::utsname::uname().ok();
    Reproduction {
        command: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
        host: name.as_ref().map(|name| name.nodename().to_string_lossy().into_owned()),
        kernel: name.as_ref().map(|name| name.release().to_string_lossy().into_owned()),
        versions: Some(Versions { leaktrace: env!("CARGO_PKG_VERSION").to_owned(), programs: Vec::new() }),
        environment: None,
    }
}
