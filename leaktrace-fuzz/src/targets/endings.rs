//! No reader: does at the word of its input what a broken one would, so that tests see that it is noticed.

pub const NAME: &str = "endings";

pub fn run(input: &[u8]) {
    match input {
        b"panic" => assert!(input.is_empty(), "as asked for"),
        // Of which nothing may remain, caught or not.
        b"caught" => drop(std::panic::catch_unwind(|| assert!(input.is_empty(), "as asked for"))),
        b"overflow" => drop(std::hint::black_box(std::hint::black_box(u32::MAX) + input.len() as u32)),
        b"stack" => drop(deeper(u64::MAX)),
        b"memory" => drop(std::hint::black_box(vec![1_u8; 65 << 20])),
        b"time" => while std::hint::black_box(true) {},
        _ => {}
    }
}

/// Takes stack for each level.
fn deeper(levels: u64) -> u64 {
    let frame = std::hint::black_box([levels; 64]);
    if levels == 0 { 0 } else { deeper(levels - 1) + frame[1] % 2 }
}
