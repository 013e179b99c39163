//! The BPF object: compiled ahead of time, committed under `leaktrace/prebuilt/`, and part of this program, so that nobody
//! who builds leaktrace needs a BPF toolchain. `cargo xtask build-ebpf` makes it.
//!
//! Out: the object's bytes, aligned for an ELF reader. Never loads anything; [`Kernel::load`](super::Kernel::load) does.

use anyhow::{Context as _, Result};
use std::borrow::Cow;

/// Names a file to load instead of the object inside the program, so that the tests can run on one that was just built.
pub const OVERRIDE: &str = "LEAKTRACE_BPF_OBJECT";

/// Bytes at an address that suits ELF's 8-byte fields; `include_bytes!` promises none.
#[repr(C, align(8))]
struct Aligned<Bytes: ?Sized>(Bytes);

#[cfg(target_arch = "x86_64")]
static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!("../../prebuilt/leaktrace-x86_64.bpf.o"));
#[cfg(target_arch = "aarch64")]
static EMBEDDED: &Aligned<[u8]> = &Aligned(*include_bytes!("../../prebuilt/leaktrace-aarch64.bpf.o"));
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("leaktrace knows the registers and calling conventions of x86_64 and aarch64 only");

/// The object to load: the embedded one, or the file that [`OVERRIDE`] names.
///
/// # Errors
///
/// Where that file cannot be read.
pub fn bytes() -> Result<Cow<'static, [u8]>> {
    match std::env::var_os(OVERRIDE) {
        None => Ok(Cow::Borrowed(&EMBEDDED.0)),
        Some(file) => {
            let read = std::fs::read(&file);
            read.map(Cow::Owned)
                .with_context(|| format!("cannot read the BPF object {}, which {OVERRIDE} names", file.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::EMBEDDED;
    use object::{Architecture, Object as _, ObjectSection as _};

    #[test]
    fn the_embedded_object_is_aligned_for_elf_readers() {
        assert_eq!(EMBEDDED.0.as_ptr().align_offset(8), 0);
    }

    #[test]
    fn the_embedded_object_is_for_bpf_and_has_types_but_no_debug_information() {
        let file = object::File::parse(&EMBEDDED.0).unwrap();
        assert_eq!(file.architecture(), Architecture::Bpf);
        assert!(file.is_little_endian());
        assert!(file.section_by_name(".BTF").is_some());
        assert!(file.sections().all(|section| !section.name().unwrap().starts_with(".debug_")));
    }
}
