//! Suppressions: leaks that the user knows, and those that are harmless, are counted and not reported.

use std::fs;
use std::path::PathBuf;

use crate::harness::tracer::path_str;
use crate::harness::{Finished, Snapshot, Tracer, build, leaktrace, require_privileges};

/// What `known_leaks.cc` loses: 333 bytes, 3 blocks of 100, a list of 4 links of 48, and one of 70.
const LOST: u64 = 333 + 3 * 100 + 4 * 48 + 70;

/// Traces the victim with every output, and these suppressions in files, a.supp and so on; the options come first.
fn traced(options: &[&str], suppressions: &[&str]) -> Finished {
    let victim = build::victim("known_leaks.cc");
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let mut arguments: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
    let outputs = [("--json", "snapshot.json"), ("--folded", "out.folded"), ("--flamegraph", "out.svg")];
    for (option, name) in outputs {
        arguments.extend([option.to_owned(), path_str(&file(name)).to_owned()]);
    }
    for (name, text) in ["a.supp", "b.supp"].into_iter().zip(suppressions) {
        fs::write(file(name), text).unwrap();
        arguments.extend(["--suppressions".to_owned(), path_str(&file(name)).to_owned()]);
    }
    arguments.extend(["--top".to_owned(), "all".to_owned(), "--".to_owned(), path_str(&victim).to_owned()]);
    require_privileges();
    Tracer::spawn(&mut leaktrace(&arguments), directory).wait()
}

/// The lines of the report that begin a site.
fn sites(report: &str) -> Vec<&str> {
    report.lines().filter(|line| line.contains(" in ") && line.contains("%)")).collect()
}

fn line<'a>(text: &'a str, begin: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("no line begins with {begin}:\n{text}"))
}

/// The bytes that a rule hides.
fn hidden(snapshot: &Snapshot, name: &str) -> u64 {
    snapshot.suppressions.iter().filter(|rule| rule.name == name).map(|rule| rule.bytes).sum()
}

/// Sums of the bytes of folded lines.
fn folded_bytes(finished: &Finished) -> u64 {
    let text = finished.read("out.folded");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn what_the_libraries_keep_is_known_to_be_harmless_and_leaks_are_reported() {
    let finished = traced(&["--fail-on-leak"], &[]);
    assert_eq!(finished.status.code(), Some(23), "{}", finished.stderr);
    let snapshot = finished.snapshot();
    let pool = snapshot.suppressions.iter().find(|rule| rule.name.contains("emergency pool")).expect("the pool");
    assert_eq!((pool.source.as_str(), pool.count, pool.sites), ("built-in", 1, 1));
    assert!(pool.bytes > 70_000, "{}", pool.bytes);
    let report = &finished.stdout;
    let line = line(report, "known harmless: ");
    assert!(line.contains("emergency pool") && line.contains("--no-default-suppressions"), "{line}");
    assert!(!sites(report).iter().any(|line| line.contains("KiB")), "the pool is not listed:\n{report}");
    for leak in ["forget", "leak_blocks", "leak_list", "keep_the_last"] {
        assert!(report.lines().any(|line| line.trim_start().contains(leak)), "{leak} is not in\n{report}");
        assert!(finished.read("out.folded").contains(leak) && finished.read("out.svg").contains(leak), "{leak}");
    }
    // Totals keep counting everything.
    let outstanding: u64 = snapshot.sites.iter().map(|site| site.outstanding_bytes).sum();
    let suppressed: u64 = snapshot.sites.iter().map(|site| site.suppressed_bytes).sum();
    assert_eq!(suppressed, snapshot.suppressions.iter().map(|rule| rule.bytes).sum::<u64>());
    assert_eq!(folded_bytes(&finished), outstanding - suppressed);
    assert_eq!(outstanding - suppressed, LOST + 70, "what the program has allocated itself");

    let everything = traced(&["--no-default-suppressions"], &[]);
    assert!(everything.snapshot().suppressions.is_empty() && !everything.stdout.contains("known harmless"));
    assert!(sites(&everything.stdout).iter().any(|line| line.contains("71.0 KiB")), "{}", everything.stdout);
}

/// As `valgrind --leak-check=full --gen-suppressions=all` writes them, but for the kind of a block that is in a register here.
const MEMCHECK: &str = "\
# The list, whose head memcheck finds definitely lost and the rest indirectly.
{
   the list's head
   Memcheck:Leak
   match-leak-kinds: definite
   fun:malloc
   fun:leak_list
   fun:main
}
{
   the list's rest
   Memcheck:Leak
   match-leak-kinds: indirect
   fun:malloc
   fun:leak_list
   fun:main
}
{
   operator new[] of a mangled name
   Memcheck:Leak
   match-leak-kinds: definite
   fun:_Znam
   fun:_ZN4shop6forgetEm
   fun:main
}
{
   of no interest
   Memcheck:Cond
   fun:strlen
}
{
   matches nothing
   Memcheck:Leak
   fun:calloc
   ...
   obj:*/libnothing.so*
}
";

#[test]
fn the_gate_does_not_count_what_users_know() {
    let lsan = "# as for LeakSanitizer\nleak:^leak_blocks$\nleak:keep_the_last\nleak:never_called\n";
    let finished = traced(&["-v", "--fail-on-leak"], &[MEMCHECK, lsan]);
    assert_eq!(finished.status.code(), Some(0), "{}\n{}", finished.stdout, finished.stderr);
    let snapshot = finished.snapshot();
    let names = ["the list's head", "the list's rest", "operator new[] of a mangled name"];
    assert_eq!(names.map(|name| hidden(&snapshot, name)), [48, 3 * 48, 333]);
    assert_eq!(hidden(&snapshot, "leak:^leak_blocks$"), 300);
    // LeakSanitizer's rules hide leaks: what is still reachable stays in the list.
    assert_eq!(hidden(&snapshot, "leak:keep_the_last"), 70);
    let partly = snapshot.sites.iter().find(|site| site.passes("keep_the_last")).unwrap();
    assert_eq!((partly.outstanding_bytes, partly.suppressed_bytes), (140, 70));
    assert_eq!(partly.suppressed.as_deref(), Some("leak:keep_the_last"));
    let listed = sites(&finished.stdout);
    assert_eq!(listed.len(), 1, "{}", finished.stdout);
    assert!(listed[0].starts_with("70 B in 1 allocation") && listed[0].contains("still reachable, 1 suppressed"));
    assert_eq!(folded_bytes(&finished), 70);
    let line = line(&finished.stdout, "suppressed by ");
    assert!(line.contains("a.supp") && line.contains("b.supp") && line.contains("895 B in 9 allocations"), "{line}");
    for said in [
        "`the list's rest` (",
        "`leak:never_called` (",
        "hid 48 bytes in 1 allocation at 1 site",
        "a.supp) hid nothing",
        "b.supp) hid nothing",
    ] {
        assert!(finished.stderr.contains(said), "{said} is not in\n{}", finished.stderr);
    }
}

#[test]
fn one_of_two_leaks_is_hidden_and_the_other_fails_the_run() {
    let block = "{\n list\n Memcheck:Leak\n fun:malloc\n fun:leak_list\n}\n";
    let finished = traced(&["--fail-on-leak"], &[block]);
    assert_eq!(finished.status.code(), Some(23), "{}", finished.stderr);
    assert!(!sites(&finished.stdout).iter().any(|line| line.starts_with("192 B")), "{}", finished.stdout);
    assert!(!finished.stderr.contains("hid"), "only with -v: {}", finished.stderr);
    let gate = format!("--fail-on-leak={}", LOST - 192 + 1);
    assert_eq!(traced(&[&gate], &[block]).status.code(), Some(0));
    // Without a leak check a rule hides all of its sites, and the gate counts what is outstanding otherwise.
    let lsan = "leak:leak_\nleak:keep_the_last\nleak:shop::forget\n";
    let finished = traced(&["--leak-check=no", "--fail-on-leak"], &[lsan]);
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stdout);
    assert!(sites(&finished.stdout).is_empty(), "{}", finished.stdout);
}

#[test]
fn a_saved_snapshot_keeps_its_marks_and_takes_others() {
    let recorded = traced(&[], &["leak:leak_blocks\n"]);
    let snapshot: PathBuf = recorded.path("snapshot.json");
    let directory = tempfile::tempdir().unwrap();
    let more = directory.path().join("more.supp");
    fs::write(&more, "leak:leak_list\n").unwrap();
    let report = |options: &[&str]| {
        let output = leaktrace(["report", path_str(&snapshot)]).args(options).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(report(&["--top", "all"]), recorded.stdout.replace("done\n", ""));
    let text = report(&["--suppressions", path_str(&more)]);
    assert!(line(&text, "suppressed by ").contains("492 B in 7 allocations at 2 sites"), "{text}");
    let bare = report(&["--no-default-suppressions"]);
    assert!(!bare.contains("known harmless") && bare.contains("300 B in 3 allocations"), "{bare}");
}

#[test]
fn only_lost_shows_lost_bytes_alone() {
    let finished = traced(&["--only", "lost", "--fail-on-leak=895"], &[]);
    assert_eq!(finished.status.code(), Some(23), "{}", finished.stderr);
    let text = &finished.stdout;
    assert!(text.contains("895 B outstanding in 9 allocations at 4 sites") && text.contains("only what is"), "{text}");
    assert!(!text.contains("still reachable"), "{text}");
    assert_eq!(folded_bytes(&finished), LOST);
    let svg = finished.read("out.svg");
    assert!(svg.contains("Lost memory of ") && svg.contains("only what is definitely or indirectly lost"));
    // What is allocated and freed at the sites stays, so that the numbers do not balance.
    let snapshot = finished.unchecked_snapshot();
    assert_eq!(snapshot.sites.iter().map(|site| site.outstanding_bytes).sum::<u64>(), LOST);
    assert_eq!(snapshot.options["only"], "lost");
    let gate = traced(&["--only", "lost", "--fail-on-leak=896"], &[]);
    assert_eq!(gate.status.code(), Some(0));
}
