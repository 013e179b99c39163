//! Every victim compiles, also those whose tests are left out today.
//!
//! `LEAKTRACE_VICTIMS_INTO` names a directory for copies of all of them, which is `LEAKTRACE_VICTIMS` of a machine without
//! a compiler.

use std::fs;
use std::path::Path;

use crate::harness::build;

#[test]
fn every_victim_is_built() {
    let copies = std::env::var_os("LEAKTRACE_VICTIMS_INTO");
    if let Some(directory) = &copies {
        fs::create_dir_all(directory).unwrap();
    }
    let mut count = 0;
    for source in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/victims")).unwrap() {
        let source = source.unwrap().file_name();
        let source = source.to_str().unwrap();
        if source == "victim.h" {
            continue;
        }
        let built = build::victim(source);
        assert!(built.is_file(), "{source} is not built");
        if let Some(directory) = &copies {
            fs::copy(built, Path::new(directory).join(Path::new(source).file_stem().unwrap())).unwrap();
        }
        count += 1;
    }
    assert!(count > 0, "no victims");
}
