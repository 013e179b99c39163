//! The victims that take nothing but a compiler compile, also those whose tests are left out today.
//!
//! `LEAKTRACE_VICTIMS_INTO` names a directory for copies of them, which is `LEAKTRACE_VICTIMS` of a machine without a compiler.

use std::fs;
use std::path::Path;

use crate::harness::build;
use crate::{command, diff, frames, hostile_files, jitted, reachability, replaced_code, threads};

/// What is built from one source without further libraries.
const PLAIN: [&str; 35] = [
    "abandoned.c",
    "annotating.c",
    "braid.c",
    "changing.c",
    "churn.c",
    "cxx.cc",
    "deep.c",
    "drawing.c",
    "ending.c",
    "execing.c",
    "failing.c",
    "family.c",
    "forking.c",
    "growth.c",
    "idle.c",
    "indirect.c",
    "known_leaks.cc",
    "late.c",
    "leader.c",
    "losing.c",
    "many_sites.c",
    "nolibc.c",
    "outstanding.c",
    "pool.cc",
    "portable.c",
    "prefixed.c",
    "puppet.c",
    "reallocs.c",
    "restarting.c",
    "rust_leaks.rs",
    "spawning.c",
    "stacks.c",
    "threads.c",
    "traps.c",
    "windows.c",
];

#[test]
fn every_plain_victim_is_built() {
    let copies = std::env::var_os("LEAKTRACE_VICTIMS_INTO");
    if let Some(directory) = &copies {
        fs::create_dir_all(directory).unwrap();
    }
    for source in PLAIN {
        let built = build::victim(source);
        assert!(built.is_file(), "{source} is not built");
        if let Some(directory) = &copies {
            fs::copy(built, Path::new(directory).join(Path::new(source).file_stem().unwrap())).unwrap();
        }
    }
    for source in reachability::live::SOURCES {
        let built = build::reachability_victim(source, 1);
        if let Some(directory) = &copies {
            fs::copy(built, Path::new(directory).join(build::reachability_name(source, 1))).unwrap();
        }
    }
    let recipes = frames::RECIPES.into_iter().chain(hostile_files::RECIPES).chain(jitted::RECIPES);
    for recipe in
        recipes.chain(replaced_code::RECIPES).chain(threads::RECIPES).chain(diff::RECIPES).chain([command::SANITIZED])
    {
        let built = recipe.built();
        if let Some(directory) = &copies {
            fs::copy(built, Path::new(directory).join(recipe.name)).unwrap();
        }
    }
}
