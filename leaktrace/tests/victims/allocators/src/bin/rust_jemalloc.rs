//! `rust_leaks.rs` with jemalloc as Rust programs link it: behind the prefix `_rjem_`, sized and aligned calls.

#[path = "../../../rust_leaks.rs"]
mod program;

#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    program::main();
}
