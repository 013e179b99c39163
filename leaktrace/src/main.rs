//! The `leaktrace` command: a thin shell over the library.

use std::process::ExitCode;

/// Not the C library's, in which there are our own probes: see `Cargo.toml`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    leaktrace::main()
}
