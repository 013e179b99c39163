//! Code that a process makes while it runs: no unwind tables, frame pointers, names in a map.

use std::process::Command;

use crate::harness::build::Recipe;
use crate::harness::{Tracer, Victim};

const JITTED: Recipe = Recipe::new("jitted", "jitted.c", &["-O2", "-fomit-frame-pointer"]);

/// All of these.
pub const RECIPES: [Recipe; 1] = [JITTED];

/// Each leak with the name of the code it is called from: there before the trace, mapped during it, made executable during it.
const LEAKS: [(&str, &str); 3] =
    [("leak_before", "jit_before"), ("leak_later", "jit_later"), ("leak_flipped", "jit_flipped")];
/// How deep the code calls itself.
const DEPTH: usize = 20;

#[test]
fn stacks_through_code_made_at_run_time_are_whole_and_named() {
    let mut victim = Victim::spawn(JITTED.name, Command::new(JITTED.built()).arg("wait"));
    victim.wait_until_ready();
    let tracer = Tracer::attach(&victim, &[]);
    let accounts = victim.work();
    let finished = tracer.stop();
    victim.finish();
    let snapshot = finished.snapshot();
    snapshot.assert_lossless_but(&["unwind_failed", "unwind_failures"]);
    snapshot.assert_equals(&accounts);
    let mut cut = 0;
    for (leak, code) in LEAKS {
        let (whole, short): (Vec<_>, Vec<_>) = snapshot
            .sites_through(accounts.site(leak).pid, leak)
            .into_iter()
            .partition(|site| site.passes("through") && site.passes("main"));
        // The kernel cannot be asked what is mapped while that is being changed: then the first stacks end there.
        cut += short.len() as u64;
        assert_eq!(whole.len(), 1, "{leak}\n{}", snapshot.digest());
        let calls = whole[0].stack.iter().filter(|frame| frame.is(code)).count();
        assert_eq!(calls, DEPTH, "{}", whole[0].path());
    }
    assert_eq!(snapshot.loss("unwind_failed"), cut, "{}", snapshot.digest());
    // These walks may have skipped callers, for all that is known: none of them counts as complete.
    let stacks = snapshot.stacks.expect("their number is known");
    assert!(stacks.guessed >= LEAKS.len() as u64, "{stacks:?}");
    assert_eq!(stacks.recorded - stacks.complete - stacks.guessed, cut, "{stacks:?}");
    let said = format!("{} by frame pointers, which may skip callers", stacks.guessed);
    assert!(finished.stdout.contains(&said), "{}", finished.stdout);
    assert!(finished.stdout.contains("callers may be missing in between; "), "{}", finished.stdout);
}
