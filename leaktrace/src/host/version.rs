//! The running kernel's version, and the machine's name.

use crate::model::Reproduction;

/// Major and minor number; (0, 0) where the kernel does not tell.
pub fn version() -> (u32, u32) {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let mut numbers = release.iter().flat_map(|release| release.split(|c: char| !c.is_ascii_digit())).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}

/// This machine, as a snapshot names it.
pub fn reproduction() -> Reproduction {
    nix::sys::utsname::uname().map_or_else(
        |_| Reproduction::default(),
        |name| Reproduction {
            host: Some(name.nodename().to_string_lossy().into_owned()),
            kernel: Some(name.release().to_string_lossy().into_owned()),
        },
    )
}
