//! Keeps Rust's standard library out of the shared library, which then needs nothing but the C library.
//!
//! In: the archives of std, its allocations and its panic runtime. Out: `absent.s`, which defines as 0, and weakly, the symbols of these which rustc
//! asks for in every shared library, whether any code needs them or not. (It lists them in an object file for that purpose:
//! `linked_symbols` in `rustc_codegen_ssa/src/back/symbol_export.rs`.) Without that all of std comes along, by the exception tables of
//! which a linker keeps much alive: `libgcc_s.so.1`, thread-local storage by a call into ld-linux.so.2, constructors. musl's loader
//! has neither file.
//!
//! Nothing of ours refers to these symbols: no code here panics, allocates or catches. Should a later Rust ask for more, the library
//! works as before with more needs, and a test says so.

#![expect(clippy::expect_used, reason = "a build script has nobody else to tell")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = std::env::var_os("RUSTC").expect("cargo sets RUSTC");
    let target = std::env::var_os("TARGET").expect("cargo sets TARGET");
    let printed = Command::new(rustc).args(["--print", "target-libdir", "--target"]).arg(target).output();
    let dir = String::from_utf8(printed.expect("rustc runs").stdout).expect("a path");
    let mut symbols = BTreeSet::new();
    for entry in Path::new(dir.trim()).read_dir().expect("rustc's libraries") {
        let path = entry.expect("rustc's libraries").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_one = ["libstd-", "libpanic_unwind-", "liballoc-"].iter().any(|start| name.starts_with(start));
        if is_one && path.extension().is_some_and(|extension| extension == "rlib") {
            symbols.extend(index(&std::fs::read(&path).expect("rustc's libraries")).filter(|name| is_asked_for(name)));
        }
    }
    let lines = symbols.iter().map(|symbol| format!(".weak {symbol}\n.hidden {symbol}\n.set {symbol}, 0\n"));
    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(Path::new(&out).join("absent.s"), lines.collect::<String>()).expect("a directory of cargo's");
}

fn is_asked_for(symbol: &str) -> bool {
    let statics = ["11EMPTY_PANIC", "14ARGV_INIT_ARRAY", "15ARGV_INIT_ARRAY"];
    // What the compiler and std agree on is mangled as of a crate `__rustc`.
    symbol.contains("7___rustc") || symbol == "rust_eh_personality" || statics.iter().any(|name| symbol.ends_with(name))
}

/// The names in an archive's index: behind a header of 60 bytes a count, as many offsets, and the names with a zero behind each.
fn index(archive: &[u8]) -> impl Iterator<Item = String> {
    let body = archive.strip_prefix(b"!<arch>\n/ ").and_then(|rest| rest.get(58..)).unwrap_or_default();
    let count = body.first_chunk().map_or(0, |count| u32::from_be_bytes(*count) as usize);
    let names = body.get(4 + 4 * count..).unwrap_or_default().split(|byte| *byte == 0).take(count);
    names.map(|name| String::from_utf8_lossy(name).into_owned())
}
