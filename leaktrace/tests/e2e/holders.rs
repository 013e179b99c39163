//! Who holds what can still be reached, and of what class objects are.

use std::process::Command;

use crate::harness::build::Recipe;
use crate::harness::snapshot::Site;
use crate::harness::tracer::path_str;
use crate::harness::{Snapshot, Tracer, Victim, build};

/// The way in which most of the blocks are held that a function has allocated: the kind of the root, the path, how many.
fn held(snapshot: &Snapshot, function: &str) -> (String, Vec<String>, u64) {
    let mut sites = snapshot.sites.iter().filter(|site| site.passes(function) && site.outstanding_count > 0);
    let site = sites.next().unwrap_or_else(|| panic!("no site of {function}"));
    let holders = site.holders.as_ref().unwrap_or_else(|| panic!("nobody holds what {function} made"));
    let first = holders.first().unwrap_or_else(|| panic!("nobody holds what {function} made"));
    assert_eq!(holders.iter().map(|holder| holder.blocks).sum::<u64>(), site.outstanding_count, "{holders:?}");
    (first.root.clone(), first.path.clone(), first.blocks)
}

fn check_c(snapshot: &Snapshot, program: &str) {
    let variable = format!("cache+0x10 ({program})");
    assert_eq!(held(snapshot, "session_new"), ("data".to_owned(), vec![variable.clone()], 1));
    let (root, path, blocks) = held(snapshot, "list_push");
    assert_eq!((root.as_str(), blocks, path.len(), &path[0]), ("data", 1000, 3, &variable), "{path:?}");
    assert!(path[1].starts_with("block from session_new (held.c:"), "{path:?}");
    assert!(path[2].starts_with("×1,000 blocks from list_push (held.c:"), "{path:?}");
    assert_eq!(held(snapshot, "entry_new"), ("data".to_owned(), vec![format!("table ({program})")], 200));
    let (root, path, _) = held(snapshot, "watched_new");
    assert_eq!(root, "kernel");
    assert!(path[0].starts_with("epoll data of descriptor "), "{path:?}");

    let process = &snapshot.processes[0];
    let retained = |name: &str| {
        let found = process.holders.iter().find(|holder| holder.name.starts_with(name));
        found.map_or_else(|| panic!("{name}: {:?}", process.holders), |holder| (holder.blocks, holder.bytes))
    };
    assert_eq!(retained("cache ("), (1001, 16 + 1000 * 48));
    assert_eq!(retained("table ("), (200, 200 * 24));
}

#[test]
fn variables_lists_stacks_and_the_kernel_while_it_waits() {
    let program = build::victim("held.c");
    let mut victim = Victim::spawn("held.c", Command::new(&program).arg("wait"));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &["--max-pause", "1h", "--holders"]);
    victim.go();
    victim.collect_until_done();
    let finished = tracer.stop();
    let snapshot = finished.snapshot();
    check_c(&snapshot, path_str(&program));
    let (root, path, _) = held(&snapshot, "local_new");
    assert_eq!(root, "stack", "{path:?}");
    assert!(path[0].starts_with("stack of thread ") && path[0].contains("(keeper) in keep_local (held.c:"), "{path:?}");
    let (root, path, _) = held(&snapshot, "own_new");
    assert_eq!(root, "tls", "{path:?}");
    assert!(path[0].starts_with("thread-local storage of thread ") && path[0].ends_with("(keeper)"), "{path:?}");
    let shown = |part: &str| assert!(finished.stdout.contains(part), "{part}:\n{}", finished.stdout);
    shown("largest holders:\n    cache (");
    shown("keeps 46.9 KiB in 1,001 allocations\n");
    shown("    held by cache+0x10 (");
    shown(" -> ×1,000 blocks from list_push (held.c:");
    victim.finish();
}

#[test]
fn objects_from_before_the_trace() {
    let program = build::reachability_victim("from_before.cc", 1);
    let mut victim = Victim::spawn("from_before.cc", Command::new(&program).arg("wait"));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &["--max-pause", "1h"]);
    victim.go();
    victim.collect_until_done();
    let snapshot = tracer.stop().snapshot();
    victim.finish();
    let path = |size: u64| {
        let is_it = |site: &&Site| site.blocks.iter().flatten().any(|block| block.size == size);
        let site = snapshot.sites.iter().find(is_it).unwrap_or_else(|| panic!("no block of {size} bytes"));
        site.holders.as_ref().and_then(|holders| holders.first()).map(|holder| holder.path.clone()).unwrap_or_default()
    };
    let app = format!("(anonymous namespace)::app ({})", path_str(&program));
    let object = "unrecorded block ((anonymous namespace)::App)";
    // The table of pointers.
    assert_eq!(path(1009), [&app, object, "unrecorded blocks"]);
    assert_eq!(path(1011)[..3], [&app, object, "unrecorded blocks"]);
    assert!(path(1011)[3].starts_with("block from "), "{:?}", path(1011));
    // Nodes of the map, and a session.
    let of_session = path(1001);
    assert_eq!(of_session.last().map(String::as_str), Some("unrecorded block ((anonymous namespace)::Session)"));
    let retained = snapshot.processes[0].holders.iter().find(|holder| holder.name == app).unwrap();
    let held = [1001, 1003, 1005, 1007, 1009, 1011];
    assert!(retained.bytes >= held.iter().sum() && retained.bytes < 10_000, "what was recorded counts: {retained:?}");
}

#[test]
fn variables_and_lists_at_the_end() {
    let program = build::victim("held.c");
    let finished = Tracer::start(&["--", path_str(&program), "run"]).wait();
    finished.assert_success();
    check_c(&finished.snapshot(), path_str(&program));
    let (root, path, _) = held(&finished.snapshot(), "own_new");
    assert_eq!(root, "tls", "{path:?}");
}

/// Programs of one source: with and without a symbol table, at fixed addresses and not.
const OBJECTS: [Recipe; 4] = [
    Recipe::new("held-objects", "held.cc", &[]),
    Recipe::new("held-objects-stripped", "held.cc", &["-s"]),
    Recipe::new("held-objects-fixed", "held.cc", &["-no-pie", "-fno-pie"]),
    Recipe::new("held-objects-fixed-stripped", "held.cc", &["-no-pie", "-fno-pie", "-s"]),
];

#[test]
fn objects_have_types_also_in_stripped_programs() {
    for recipe in OBJECTS {
        let program = recipe.built();
        let finished = Tracer::start(&["--show-allocs", "--holders", "--", path_str(&program), "run"]).wait();
        finished.assert_success();
        let snapshot = finished.snapshot();
        let of_type = |name: Option<&str>| {
            let sites = snapshot.sites.iter().filter(|site| site.outstanding_count > 0);
            sites.filter(|site| site.type_name.as_deref() == name).map(|site| site.outstanding_count).sum::<u64>()
        };
        // By make_book, make_pen and the two calls of make_any, which are sites of their own.
        assert_eq!(of_type(Some("shop::Book")), 75, "{}", recipe.name);
        assert_eq!(of_type(Some("shop::Priced<7>")), 75, "{}", recipe.name);
        let blocks = snapshot.sites.iter().flat_map(|site| site.blocks.iter().flatten());
        let types: Vec<_> = blocks.filter_map(|block| block.type_name.as_deref()).collect();
        assert_eq!(types.len(), 150, "the label has none, nor have the nodes of the map: {types:?}");
        let books = snapshot.sites.iter().find(|site| site.type_name.as_deref() == Some("shop::Book")).unwrap();
        let path = &books.holders.as_ref().unwrap()[0].path;
        let is_stripped = recipe.flags.contains(&"-s");
        let expected =
            if is_stripped { format!("{}+0x", program.file_name().unwrap().display()) } else { "items+0x".into() };
        assert!(path[0].starts_with(&expected), "{}: {path:?}", recipe.name);
        let is_in_report = finished.stdout.contains("type shop::Book");
        assert!(is_in_report, "{}", finished.stdout);
    }
}

#[test]
fn the_report_sums_by_type() {
    let program = OBJECTS[0].built();
    let finished = Tracer::start(&["--group-by", "type", "--", path_str(&program), "run"]).wait();
    finished.assert_success();
    let line = |name: &str| finished.stdout.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    for (name, amount) in [("shop::Priced<7>", "2.9 KiB"), ("shop::Book", "1.2 KiB")] {
        let (class, expected) =
            (format!(": type {name}, "), format!("{amount} in 75 allocations at 2 sites: type {name}, "));
        // With what was found of all of them.
        let found = line(&class);
        assert!(found.starts_with(&expected) && found.contains(" still reachable"), "{found}");
    }
    assert!(finished.stdout.contains(": no type is known"), "{}", finished.stdout);
}
