//! The running kernel's version.

/// Major and minor number; (0, 0) where the kernel does not tell.
pub fn version() -> (u32, u32) {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let mut numbers = release.iter().flat_map(|release| release.split(|c: char| !c.is_ascii_digit())).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    }
}
