//! `rust_leaks.rs` with mimalloc as Rust programs link it.

#[path = "../../../rust_leaks.rs"]
mod program;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    program::main();
}
