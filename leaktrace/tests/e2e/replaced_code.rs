//! Code that comes to lie where other code lay: plug-ins that are unloaded and others that are loaded in their place, text that a
//! program maps over, code made at run time.

use std::process::Command;

use crate::harness::build::Recipe;
use crate::harness::snapshot::Site;
use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Finished, Snapshot, Tracer, Victim};

const PLUGINS: Recipe = Recipe::new("plugins", "plugins.c", &[]);
const ALPHA: Recipe = Recipe::new("plug-alpha.so", "plug.c", &["-shared", "-fPIC", "-DPLUG=alpha", "-DSIZE=100"]);
const BETA: Recipe = Recipe::new("plug-beta.so", "plug.c", &["-shared", "-fPIC", "-DPLUG=beta", "-DSIZE=300", "-DPAD"]);

/// As alpha, of other names and sizes.
const GAMMA: Recipe = Recipe::new("plug-gamma.so", "plug.c", &["-shared", "-fPIC", "-DPLUG=gamma", "-DSIZE=300"]);
const OVERWRITTEN: Recipe = Recipe::new("overwritten", "plugins.c", &["-DOVER"]);

const REMAPPED: Recipe = Recipe::new("remapped", "remapped.c", &[]);
const MOVED: Recipe = Recipe::new("moved", "remapped.c", &["-DMOVED"]);
const REJITTED: Recipe = Recipe::new("rejitted", "rejitted.c", &[]);

/// All of these.
pub const RECIPES: [Recipe; 8] = [PLUGINS, ALPHA, BETA, GAMMA, OVERWRITTEN, REMAPPED, MOVED, REJITTED];

/// Loads these one after the other, so many times in all.
fn traced(rounds: u32, plugs: &[Recipe]) -> (Finished, Accounts) {
    let (rounds, plugs) = (rounds.to_string(), plugs.iter().map(Recipe::built).collect::<Vec<_>>());
    let mut command = Command::new(PLUGINS.built());
    let mut victim = Victim::spawn(PLUGINS.name, command.arg("wait").arg(rounds).args(plugs));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &["-vv"]);
    let accounts = victim.work();
    let finished = tracer.stop();
    victim.finish();
    assert_eq!(accounts.fact("moved"), 0, "the plug-ins lay at one address");
    (finished, accounts)
}

/// Each plug-in's blocks are under its own functions, in one site, and nothing is lost. Before its table is built a stack may end
/// early, which is counted.
fn assert_apart(snapshot: &Snapshot, accounts: &Accounts) {
    snapshot.assert_lossless_but(&["unwind_failed", "unwind_failures"]);
    snapshot.assert_equals(accounts);
    let mut cut = 0;
    for account in &accounts.sites {
        let sites = snapshot.sites_through(account.pid, &account.site);
        let (whole, short): (Vec<_>, Vec<_>) = sites.into_iter().partition(|site| site.passes("main"));
        assert!(whole.len() <= 1, "{} is split\n{}", account.site, snapshot.digest());
        cut += short.len() as u64;
        for site in whole {
            let others = accounts.sites.iter().filter(|other| other.site != account.site);
            assert!(others.into_iter().all(|other| !site.passes(&other.site)), "{}", site.path());
            assert!(!site.passes("padding"), "{}", site.path());
            // Before its table was there frame pointers were followed, which this program keeps.
            let state = site.stack_state.as_deref();
            assert!(state == Some("whole") || state == Some("gap"), "{state:?}: {}", site.path());
            cut += u64::from(state == Some("gap"));
        }
    }
    assert!(cut <= snapshot.loss("unwind_failed"), "{cut}: {}", snapshot.digest());
}

#[test]
fn two_plug_ins_at_one_address_are_named_apart() {
    let (finished, accounts) = traced(2, &[ALPHA, BETA]);
    finished.assert_success();
    assert_apart(&finished.snapshot(), &accounts);
}

#[test]
fn plug_ins_that_take_turns_fifty_times_are_one_site_each() {
    let (finished, accounts) = traced(50, &[ALPHA, BETA]);
    finished.assert_success();
    let snapshot = finished.snapshot();
    assert_apart(&snapshot, &accounts);
    assert_eq!(accounts.site("leak_alpha").bytes, 25 * 10 * 100, "{}", path_str(&ALPHA.built()));
}

#[test]
fn a_plug_in_that_is_loaded_again_and_again_is_one_site() {
    let (finished, accounts) = traced(50, &[ALPHA]);
    finished.assert_success();
    assert_apart(&finished.snapshot(), &accounts);
}

#[test]
fn a_plug_in_that_is_overwritten_before_it_is_read_gives_no_certain_wrong_name() {
    let (program, plugs) = (OVERWRITTEN.built(), [ALPHA, GAMMA].map(|plug| plug.built()));
    // The tracer may read the file before, in between and afterwards.
    for _ in 0..8 {
        let scratch = tempfile::tempdir().unwrap();
        let over = scratch.path().join("over.so");
        let files = [&over, &plugs[0], &plugs[1]].map(|file| path_str(file));
        let command = [&["--", path_str(&program), "run", "2"][..], &files].concat();
        let finished = Tracer::start_unready(&command).wait();
        finished.assert_success();
        let snapshot = finished.snapshot();
        let sites = |leak| {
            let passing = snapshot.sites.iter().filter(move |site| site.passes(leak));
            passing.map(|site| (site.outstanding_bytes, site.outstanding_count, site.stack_state.as_deref()))
        };
        let is_sure = |state: Option<&str>| state != Some("unsure");
        let right = |leak, size| sites(leak).all(|(bytes, count, state)| bytes == count * size || !is_sure(state));
        assert!(right("leak_alpha", 100) && right("leak_gamma", 300), "{}", snapshot.digest());
        let last: u64 = sites("leak_gamma").filter(|(.., state)| is_sure(*state)).map(|(bytes, ..)| bytes).sum();
        assert_eq!(last, 10 * 300, "what was not overwritten has its names\n{}", snapshot.digest());
    }
}

/// The site of a leak that has one.
fn only_site<'a>(snapshot: &'a Snapshot, accounts: &Accounts, leak: &str) -> &'a Site {
    let sites = snapshot.sites_through(accounts.site(leak).pid, leak);
    assert_eq!(sites.len(), 1, "{leak}\n{}", snapshot.digest());
    sites[0]
}

fn state(site: &Site) -> String {
    site.stack_state.clone().unwrap_or_default()
}

/// The end of a trace in which nothing was lost but what frames in replaced code are called.
fn unsure(tracer: Tracer, victim: Victim, accounts: &Accounts) -> (Finished, Snapshot) {
    let finished = tracer.stop();
    victim.finish();
    finished.assert_success();
    let snapshot = finished.snapshot();
    snapshot.assert_lossless_but(&["stacks_unsure", "unwind_failed", "unwind_failures"]);
    snapshot.assert_equals(accounts);
    (finished, snapshot)
}

#[test]
fn stacks_through_text_that_a_program_maps_over_are_marked_until_that_is_known() {
    let mut victim = Victim::spawn(REMAPPED.name, Command::new(REMAPPED.built()).arg("wait"));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &["-vv"]);
    victim.go();
    victim.wait_for_line("that the second file is mapped", |line| line == "remapped");
    tracer.wait_for_message("that it has seen that", |line| line.contains("other code than before"));
    let accounts = victim.work();
    let (finished, snapshot) = unsure(tracer, victim, &accounts);
    let site = |leak: &str| {
        let site = only_site(&snapshot, &accounts, leak);
        assert!(site.passes("main"), "{}", site.path());
        site
    };
    let state = |leak: &str| state(site(leak));
    let states = ["leak_first", "leak_second", "leak_stable"].map(state);
    assert_eq!(states, ["unsure", "unsure", "whole"], "{}", snapshot.digest());
    // That the file has no table may not have been known yet.
    assert!(["whole", "gap"].contains(&state("leak_later").as_str()), "{}", snapshot.digest());
    assert_eq!(snapshot.loss("stacks_unsure"), 2, "{}", snapshot.digest());
    // Behind the leak itself.
    let module = site("leak_later").stack[1].module.clone().unwrap_or_default();
    assert!(module.contains("/code-second-"), "{module}");
    let line = "2 stacks with frames in code that was replaced meanwhile; they may be called after what came later";
    assert!(finished.stdout.contains(line), "{}", finished.stdout);
}

#[test]
fn stacks_through_text_that_a_program_moves_over_other_text_are_marked() {
    let mut victim = Victim::spawn(MOVED.name, Command::new(MOVED.built()).arg("wait"));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &["-vv"]);
    victim.go();
    victim.wait_for_line("that the second file is moved", |line| line == "remapped");
    let accounts = victim.work();
    let (_, snapshot) = unsure(tracer, victim, &accounts);
    let state = |leak: &str| state(only_site(&snapshot, &accounts, leak));
    let states = ["leak_first", "leak_second", "leak_later", "leak_stable"].map(state);
    assert_eq!(states, ["unsure", "unsure", "unsure", "whole"], "{}", snapshot.digest());
    assert_eq!(snapshot.loss("stacks_unsure"), 3, "{}", snapshot.digest());
}

#[test]
fn stacks_through_code_made_at_run_time_whose_place_was_used_again_are_marked() {
    let mut victim = Victim::spawn(REJITTED.name, Command::new(REJITTED.built()).arg("wait"));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let finished = tracer.stop();
    victim.finish();
    finished.assert_success();
    let snapshot = finished.snapshot();
    snapshot.assert_lossless_but(&["stacks_unsure"]);
    snapshot.assert_equals(&accounts);
    let state = |leak: &str| state(only_site(&snapshot, &accounts, leak));
    // The walk through code made at run time follows frame pointers, which may pass callers by.
    assert_eq!(["leak_old", "leak_new", "leak_stays"].map(state), ["unsure", "unsure", "gap"]);
    assert_eq!(snapshot.loss("stacks_unsure"), 2, "{}", snapshot.digest());
    let stacks = snapshot.stacks.expect("their number is known");
    assert!(stacks.guessed >= 1, "{stacks:?}");
    assert_eq!(stacks.recorded - stacks.complete - stacks.guessed, 2, "{stacks:?}");
    let stays = snapshot.sites_through(accounts.site("leak_stays").pid, "leak_stays");
    assert!(stays[0].passes("jit_stays") && stays[0].passes("main"), "{}", stays[0].path());
}
