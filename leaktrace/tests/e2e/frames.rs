//! Whole, named stacks of programs without frame pointers (-O2 -fomit-frame-pointer), through every sort of frame.

use std::ffi::OsStr;
use std::process::Command;

use crate::harness::build::Recipe;
use crate::harness::snapshot::Site;
use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Finished, Snapshot, Tracer, Victim, leaktrace, require_privileges};

const FRAMES: Recipe = Recipe::new("frames", "frames.c", &["-O2", "-fomit-frame-pointer", "-foptimize-sibling-calls"]);
const STATIC: Recipe = Recipe {
    flags: &["-O2", "-fomit-frame-pointer", "-foptimize-sibling-calls", "-DWITHOUT_PLUGIN", "-static-pie"],
    ..Recipe::new("frames-static-pie", "frames.c", &[])
};
const STRIPPED: Recipe = Recipe {
    flags: &["-O2", "-fomit-frame-pointer", "-foptimize-sibling-calls", "-DWITHOUT_PLUGIN", "-s"],
    ..Recipe::new("frames-stripped", "frames.c", &[])
};
const WITH_FRAME_POINTERS: Recipe = Recipe {
    flags: &["-O2", "-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer", "-DWITHOUT_PLUGIN"],
    ..Recipe::new("frames-with-frame-pointers", "frames.c", &[])
};
const PLUGIN: Recipe = Recipe::new("plugin.so", "plugin.c", &["-O2", "-fomit-frame-pointer", "-shared", "-fPIC"]);
const MERGING: Recipe = Recipe::new("merging", "merging.cc", &["-O2", "-fomit-frame-pointer"]);

/// All of these.
pub const RECIPES: [Recipe; 6] = [FRAMES, STATIC, STRIPPED, WITH_FRAME_POINTERS, PLUGIN, MERGING];

/// What a site's stack says of the victim's own functions, innermost first, a function that calls itself with how often it
/// stands there. Inlined ones are left out.
fn own_frames(site: &Site, own: &[&str]) -> Vec<(String, usize)> {
    let mut frames: Vec<(String, usize)> = Vec::new();
    for frame in site.stack.iter().filter(|frame| !frame.inlined) {
        let Some(name) = own.iter().find(|name| frame.is(name)) else { continue };
        match frames.last_mut() {
            Some((last, count)) if last == name => *count += 1,
            _ => frames.push(((*name).to_owned(), 1)),
        }
    }
    frames
}

/// The functions of frames.c and plugin.c through which its stacks go, beside those that leak.
const FUNCTIONS: [&str; 14] = [
    "main",
    "descend",
    "on_signal",
    "through_signal",
    "in_thread",
    "through_thread",
    "in_coroutine",
    "tail_callee",
    "tail_caller",
    "with_cfi",
    "without_cfi",
    "without_frame",
    "plugin_enter",
    "through_plugin",
];

/// For each leak the functions that have led to it.
const PATHS: [(&str, &[(&str, usize)]); 14] = [
    ("leak_deep_5", &[("descend", 5), ("main", 1)]),
    ("leak_deep_30", &[("descend", 30), ("main", 1)]),
    ("leak_deep_120", &[("descend", 120), ("main", 1)]),
    // Of 300: the stack is cut at 256 frames, of which the leaking one is the first.
    ("leak_beyond", &[("descend", 255)]),
    ("leak_alloca", &[("main", 1)]),
    ("leak_aligned", &[("main", 1)]),
    ("leak_inlined", &[("main", 1)]),
    ("leak_signal", &[("on_signal", 1), ("through_signal", 1), ("main", 1)]),
    ("leak_thread", &[("in_thread", 1)]),
    ("leak_coroutine", &[("in_coroutine", 1)]),
    // The one that jumped there is not on the stack.
    ("leak_tail", &[("tail_callee", 1), ("main", 1)]),
    ("leak_cfi", &[("with_cfi", 1), ("main", 1)]),
    ("leak_no_cfi", &[("without_cfi", 1), ("main", 1)]),
    // Neither CFI nor a frame pointer: nobody knows how to go on.
    ("leak_no_frame", &[("without_frame", 1)]),
];

fn assert_path(snapshot: &Snapshot, pid: u32, leak: &str, path: &[(&str, usize)]) {
    let sites = snapshot.sites_through(pid, leak);
    assert_eq!(sites.len(), 1, "sites of {leak}\n{}", snapshot.digest());
    let own: Vec<&str> = FUNCTIONS.iter().copied().chain([leak]).collect();
    let expected: Vec<_> = std::iter::once((leak, 1)).chain(path.iter().copied()).collect();
    let found = own_frames(sites[0], &own);
    let found: Vec<(&str, usize)> = found.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(found, expected, "{}", sites[0].path());
}

/// All but two stacks are whole: the one beyond the limit and the one through code that tells nothing.
fn assert_whole_but_two(snapshot: &Snapshot) {
    snapshot.assert_lossless_but(&["stacks_truncated", "unwind_failed", "unwind_failures"]);
    assert_eq!((snapshot.loss("stacks_truncated"), snapshot.loss("unwind_failed")), (1, 1), "{}", snapshot.digest());
}

/// Starts a victim and attaches to it.
fn attached(recipe: &Recipe, arguments: &[&str], options: &[&str]) -> (Victim, Tracer) {
    let victim = Victim::spawn(recipe.name, Command::new(recipe.built()).arg("wait").args(arguments));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, options);
    (victim, tracer)
}

/// Attaches, lets the victim work and stops the trace before it ends.
fn traced_with(recipe: &Recipe, options: &[&str]) -> (Finished, Accounts) {
    let (mut victim, tracer) = attached(recipe, &[], options);
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    victim.finish();
    (finished, accounts)
}

/// The same without options.
fn traced(recipe: &Recipe) -> (Snapshot, Accounts) {
    let (finished, accounts) = traced_with(recipe, &[]);
    (finished.snapshot(), accounts)
}

#[test]
fn stacks_through_every_sort_of_frame_are_whole_and_named() {
    for recipe in [FRAMES, STATIC] {
        let (snapshot, accounts) = traced(&recipe);
        snapshot.assert_equals(&accounts);
        for (leak, path) in PATHS {
            assert_path(&snapshot, accounts.site(leak).pid, leak, path);
        }
        let inlined = snapshot.sites_through(accounts.site("leak_inlined").pid, "leak_inlined");
        assert!(
            inlined[0].stack.iter().any(|frame| frame.inlined && frame.is("inlined_leaf")),
            "{}",
            inlined[0].path()
        );
        assert_whole_but_two(&snapshot);
    }
}

#[test]
fn stacks_of_a_stripped_program_are_as_deep() {
    let (snapshot, accounts) = traced(&STRIPPED);
    assert_whole_but_two(&snapshot);
    // Each block has a size of its own.
    let depth = |leak: &str| {
        let bytes = accounts.site(leak).bytes;
        let mut sites = snapshot.sites.iter().filter(|site| site.outstanding_bytes == bytes);
        let site = sites.next().unwrap_or_else(|| panic!("{leak} is missing\n{}", snapshot.digest()));
        assert!(sites.next().is_none(), "{leak} is there twice\n{}", snapshot.digest());
        site.stack.iter().filter(|frame| !frame.inlined).count()
    };
    assert_eq!(depth("leak_deep_30") - depth("leak_deep_5"), 25);
    assert_eq!(depth("leak_deep_120") - depth("leak_deep_30"), 90);
    assert_eq!(depth("leak_beyond"), 256);
    assert_eq!(depth("leak_alloca"), depth("leak_aligned"));
    assert_eq!(depth("leak_cfi"), depth("leak_no_cfi"));
}

#[test]
fn without_frame_pointers_to_fall_back_on_stacks_end_where_the_tables_do() {
    let (finished, accounts) = traced_with(&FRAMES, &["--unwind", "dwarf", "-v"]);
    let snapshot = finished.snapshot();
    snapshot.assert_equals(&accounts);
    for (leak, path) in PATHS {
        // That one has a frame pointer and nothing else.
        let path = if leak == "leak_no_cfi" { &path[..1] } else { path };
        assert_path(&snapshot, accounts.site(leak).pid, leak, path);
    }
    assert_eq!((snapshot.loss("stacks_truncated"), snapshot.loss("unwind_failed")), (1, 2), "{}", snapshot.digest());
    // Which code it was is said.
    let line = format!("2 incomplete stacks end in {}: no unwind row", path_str(&FRAMES.built()));
    assert!(finished.stderr.contains(&line), "-v does not say {line}:\n{}", finished.stderr);
}

#[test]
fn frame_pointers_alone_lead_where_a_program_keeps_them() {
    let (finished, accounts) = traced_with(&WITH_FRAME_POINTERS, &["--unwind", "fp"]);
    let snapshot = finished.snapshot();
    snapshot.assert_equals(&accounts);
    for (leak, path) in PATHS.into_iter().filter(|(leak, _)| leak.starts_with("leak_deep_")) {
        assert_path(&snapshot, accounts.site(leak).pid, leak, path);
    }
    // Elsewhere they do not.
    let (finished, accounts) = traced_with(&FRAMES, &["--unwind", "fp"]);
    let snapshot = finished.snapshot();
    snapshot.assert_equals(&accounts);
    for site in snapshot.sites_through(accounts.site("leak_deep_30").pid, "leak_deep_30") {
        assert!(!site.passes("descend"), "{}", site.path());
    }
}

#[test]
fn constructors_of_libraries_have_whole_stacks() {
    let (plugin, frames) = (PLUGIN.built(), FRAMES.built());
    let line = format!("LD_PRELOAD={} exec {} run", path_str(&plugin), path_str(&frames));
    let finished = Tracer::start_unready(&["--", "sh", "-c", &line]).wait();
    finished.assert_success();
    let (snapshot, accounts) = (finished.snapshot(), Accounts::parse(&finished.stdout));
    let pid = accounts.site("leak_constructor").pid;
    // Both run before main.
    for (leak, block) in [("leak_constructor", 114), ("leak_plugin_constructor", 301)] {
        assert_eq!(snapshot.through(pid, leak).outstanding(), (block, 1), "{leak}\n{}", snapshot.digest());
        assert_path(&snapshot, pid, leak, &[]);
    }
    assert_whole_but_two(&snapshot);
}

#[test]
fn a_plugin_that_is_loaded_during_the_trace_has_whole_stacks_once_its_table_is_built() {
    let plugin = PLUGIN.built();
    let (mut victim, tracer) = attached(&FRAMES, &[path_str(&plugin)], &["-vv"]);
    victim.go();
    victim.wait_for_line("\"loaded\"", |line| line == "loaded");
    tracer.wait_for_message("that the plugin's table is in use", |line| {
        line.contains("unwind table of ") && line.contains(path_str(&plugin))
    });
    let accounts = victim.work();
    let finished = tracer.stop();
    finished.assert_success();
    let snapshot = finished.snapshot();
    victim.finish();
    let pid = accounts.site("leak_plugin").pid;
    assert_eq!(snapshot.through(pid, "leak_plugin").outstanding(), (302, 1));
    assert_path(&snapshot, pid, "leak_plugin", &[("plugin_enter", 1), ("through_plugin", 1), ("main", 1)]);
    // Its constructor ran when nobody had seen the file before: cut short, most likely, and then counted.
    let constructor = snapshot.sites_through(pid, "leak_plugin_constructor");
    assert_eq!(constructor.len(), 1, "{}", snapshot.digest());
    let cut = u64::from(!constructor[0].passes("main"));
    assert_eq!(snapshot.loss("stacks_truncated"), 1);
    assert_eq!(snapshot.loss("unwind_failed"), 1 + cut, "{}", snapshot.digest());
}

#[test]
fn leaks_by_way_of_the_same_library_functions_stay_two_sites() {
    let (mut victim, tracer) = attached(&MERGING, &[], &[]);
    let accounts = victim.work();
    let snapshot = tracer.stop().lossless();
    victim.finish();
    snapshot.assert_equals(&accounts);
    for account in &accounts.sites {
        let sites = snapshot.sites_through(account.pid, &account.site);
        assert_eq!(sites.len(), 1, "{}\n{}", account.site, snapshot.digest());
        let others = accounts.sites.iter().filter(|other| other.site != account.site);
        assert!(others.into_iter().all(|other| !sites[0].passes(&other.site)), "{}", sites[0].path());
        assert!(sites[0].passes("main"), "{}", sites[0].path());
        // What is between is named as well.
        let way = match account.site.as_str() {
            "leak_lambda" => "operator()",
            "leak_template_a" | "leak_template_b" => "grow",
            _ => "fill",
        };
        let passes = |frame: &crate::harness::snapshot::Frame| {
            frame.function.as_deref().is_some_and(|function| function.contains(way))
        };
        assert!(sites[0].stack.iter().any(passes), "no {way}: {}", sites[0].path());
    }
}

#[test]
fn a_return_address_that_another_tracer_has_replaced_ends_the_stack_by_name() {
    let mut victim = Victim::start("deep.c", &["3", "5"]);
    // Its probes are at the returns of the victim's own function.
    let other = Tracer::attach(&victim, &["--alloc-symbols", "descend=malloc"]);
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let finished = tracer.stop();
    other.stop().assert_success();
    victim.finish();
    let snapshot = finished.snapshot();
    snapshot.assert_equals(&accounts);
    let sites = snapshot.sites_through(accounts.site("leak_deep").pid, "leak_deep");
    assert!(sites.iter().all(|site| site.passes("descend") && !site.passes("main")), "{}", snapshot.digest());
    assert_eq!(snapshot.loss("unwind_failed"), sites.len() as u64, "{}", snapshot.digest());
    let reason = format!("return address replaced by a return probe {}", sites.len());
    assert!(finished.stdout.contains(&reason), "{}", finished.stdout);
}

/// Two programs whose functions lie at the same addresses, under frames of different sizes.
const TWINS: [Recipe; 2] = [
    Recipe::new("twin-small", "twins.c", &["-no-pie", "-fomit-frame-pointer", "-DROOM=4096"]),
    Recipe::new("twin-large", "twins.c", &["-no-pie", "-fomit-frame-pointer", "-DROOM=8192"]),
];

#[test]
fn no_rule_of_another_program_is_used_when_the_generations_of_lists_begin_anew() {
    require_privileges();
    let [small, large] = TWINS.map(|recipe| recipe.built());
    let script = format!("{0} run; {1} run; ", path_str(&small), path_str(&large)).repeat(30);
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("snapshot.json");
    let mut command = leaktrace([OsStr::new("--all-sites"), OsStr::new("--json"), json.as_os_str()]);
    // As many as there are, so that the test need not publish sixteen million lists.
    command.env("LEAKTRACE_UNWIND_GENERATIONS", "11").args(["-vv", "--show-allocs", "--", "/bin/sh", "-c", &script]);
    let finished = Tracer::spawn(&mut command, directory).wait();
    let accounts = Accounts::parse(&finished.stdout);
    assert_eq!(accounts.sites.len(), 60);
    let begun_anew = finished.stderr.lines().filter(|line| line.contains("all generations")).count();
    assert!(begun_anew > 0, "{}", finished.stderr);
    let snapshot = finished.exact();
    snapshot.assert_equals(&accounts);
    // The first stacks of a program may come before its table, which is counted. Whatever is there is right.
    let early = snapshot.loss("unwind_failed");
    let paths: Vec<_> = snapshot.sites.iter().filter(|site| site.passes("leak_leaf")).map(Site::path).collect();
    let whole = |path: &&String| path.contains("leak_leaf < twin_inner < twin_outer < main < ");
    let (whole, other): (Vec<_>, Vec<_>) = paths.iter().partition(whole);
    assert!(other.iter().all(|path| *path == "leak_leaf") && other.len() as u64 == early, "{early} of {other:?}");
    assert!(whole.len() > 30, "{paths:?}");
}

/// Traces a command as users do, held for its tables for half a second at most, where each table takes so many seconds longer.
fn held_for_tables_that_take(seconds: &str) -> (Finished, Accounts) {
    require_privileges();
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("snapshot.json");
    let mut command = leaktrace([OsStr::new("--all-sites"), OsStr::new("--json"), json.as_os_str()]);
    command.env_remove("LEAKTRACE_TABLES_WITHIN").env("LEAKTRACE_TABLES_DELAY", seconds);
    command.args(["--show-allocs", "--", path_str(&FRAMES.built()), "run"]).arg(PLUGIN.built());
    let finished = Tracer::spawn(&mut command, directory).wait();
    let accounts = Accounts::parse(&finished.stdout);
    (finished, accounts)
}

#[test]
fn stacks_from_before_their_tables_are_counted_and_said_to_be_cut() {
    // The machine decides whether half a second is enough; it is not where they take longer than the program runs.
    for (delay, must_miss) in [("0", false), ("20", true)] {
        let (finished, accounts) = held_for_tables_that_take(delay);
        finished.assert_success();
        let snapshot = finished.snapshot();
        snapshot.assert_equals(&accounts);
        // Three stacks of this program never are whole: one is deeper than is kept, one ends in code without a row, and one was
        // walked by a frame pointer on the way.
        let early = snapshot.loss("unwind_failed").saturating_sub(1);
        let cut = snapshot.sites.iter().filter(|site| site.stack_state.as_deref() != Some("whole")).count() as u64;
        assert!(cut <= early + 3, "{cut} of {early}: {}", snapshot.digest());
        assert!(early > 0 || !must_miss, "{}", snapshot.digest());
        let told = finished.stdout.contains("unwind table not ready yet");
        assert_eq!(early > 0, told, "{}", finished.stdout);
    }
}
