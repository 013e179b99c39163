//! The kernel's error number among the causes of an error.

use std::io;

/// The number of the outermost cause that has one.
pub fn of(error: &anyhow::Error) -> Option<i32> {
    error.chain().find_map(|cause| {
        let of_io = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        of_io.or_else(|| cause.downcast_ref::<nix::Error>().map(|number| *number as i32))
    })
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn the_number_is_found_under_what_was_said_of_it() {
        let missing = std::io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(of(&anyhow::Error::from(missing).context("no such table")), Some(libc::ENOENT));
        assert_eq!(of(&anyhow::Error::from(nix::Error::EMFILE)), Some(libc::EMFILE));
        assert_eq!(of(&anyhow::anyhow!("bad input")), None);
    }
}
