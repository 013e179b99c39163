//! leaktrace.
fn main() {}
