//! An object as large as they come: what its table takes.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::image::Image;
use super::{FRAME_POINTER_FUNCTION, build};

/// The text of Debian 12's libLLVM-14, which has 948,864 rows.
const TEXT_BYTES: u64 = 48 << 20;
/// A function's length, so that there are as many rows.
const FUNCTION_BYTES: u64 = 208;
/// Rows of one.
const ROWS: u64 = 4;

fn cpu_time() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}

/// Code that is not optimised is given five times the time, which is the processor's and not the clock's.
#[test]
fn a_table_for_48_mib_of_code_takes_a_second_and_a_half_and_10_mb_at_most() {
    let mut image = Image::new(TEXT_BYTES);
    let functions = TEXT_BYTES / FUNCTION_BYTES;
    for function in 0..functions {
        image.fde(function * FUNCTION_BYTES, FUNCTION_BYTES, &FRAME_POINTER_FUNCTION);
    }
    let file = image.build();
    let began = cpu_time();
    let table = super::UnwindTable::build(&file).unwrap();
    let took = cpu_time().saturating_sub(began);
    println!("{} rows, {} bytes, {took:?}", table.rows().len(), table.size());
    // What lies behind the last function has none.
    assert_eq!(table.rows().len() as u64, functions * ROWS + 1);
    assert!(table.size() <= 10_000_000, "{} bytes", table.size());
    assert!(took < Duration::from_millis(1500) * if cfg!(debug_assertions) { 5 } else { 1 }, "{took:?}");
    // Twice the code, twice the table: nothing in it depends on more than the rows.
    let half =
        Image { text_size: TEXT_BYTES / 2, eh_frame: image.eh_frame[..image.eh_frame.len() / 2].to_vec(), ..image };
    let rows = build(&half).rows().len() as u64;
    assert!(rows.abs_diff(functions / 2 * ROWS) < 2 * ROWS, "{rows}");
}
