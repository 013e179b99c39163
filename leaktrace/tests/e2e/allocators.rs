//! Which allocator is probed: the one that is found, and those that the user names.

use std::fs;

use crate::harness::tracer::path_str;
use crate::harness::{Tracer, Victim, build};

#[test]
fn an_allocator_with_a_prefix_is_traced_beside_the_c_library() {
    let victim = build::victim("prefixed.c");
    let mut process = Victim::start("prefixed.c", &[]);
    let tracer = Tracer::attach(&process, &["--object", path_str(&victim), "--symbols-prefix", "my_"]);
    let accounts = process.work();
    let snapshot = tracer.stop().lossless();
    snapshot.assert_equals(&accounts);
    assert_eq!(snapshot.process(process.pid()).untracked_frees, 0);
    process.finish();
}

#[test]
fn functions_that_the_user_names_are_traced_wherever_they_are() {
    let mut process = Victim::start("prefixed.c", &[]);
    let names = "my_malloc,my_free,my_calloc=calloc,my_realloc=realloc";
    let tracer = Tracer::attach(&process, &["--alloc-symbols", names]);
    let accounts = process.work();
    let snapshot = tracer.stop().lossless();
    snapshot.assert_equals(&accounts);
    assert_eq!(snapshot.process(process.pid()).untracked_frees, 0);
    assert_eq!(snapshot.options["alloc_symbols"][0], "my_malloc=malloc");
    process.finish();
}

#[test]
fn names_that_no_file_has_are_said_at_the_end() {
    let victim = build::victim("prefixed.c");
    let (victim, names) = (path_str(&victim), "my_malloc,nosuch=malloc");
    let options = ["--alloc-symbols", names, "--symbols-prefix", "my_", "--symbols-prefix", "zz_"];
    let finished = Tracer::start_unready(&[&options, &["--", victim, "run"][..]].concat()).wait();
    let missing = [
        "no function nosuch (--alloc-symbols) was found in any file that was read",
        "no function with the prefix zz_ (--symbols-prefix) was found in any file that was read",
    ];
    for text in [&finished.stdout, &finished.stderr] {
        for missing in missing {
            assert_eq!(text.matches(&format!("warning: {missing}")).count(), 1, "{text}");
        }
        assert_eq!(text.matches("was found in any file").count(), 2, "{text}");
    }
}

#[test]
fn an_exception_gets_out_of_a_function_that_the_user_names_whatever_its_name() {
    let victim = build::victim("pool.cc");
    let finished =
        Tracer::start_unready(&["--alloc-symbols", "pool_get=malloc,pool_put=free", "--", path_str(&victim)]).wait();
    assert!(finished.stdout.contains("refused 50"), "{}", finished.stderr);
    let snapshot = finished.lossless();
    let lost: Vec<_> = snapshot.sites.iter().filter(|site| site.outstanding_bytes == 7 * 111).collect();
    assert_eq!(lost.len(), 1, "{}", snapshot.digest());
    let lost = lost[0];
    assert_eq!((lost.outstanding_count, lost.alloc_count, lost.free_count), (7, 50, 43), "{}", snapshot.digest());
}

#[test]
fn verbose_lists_object_function_place_and_processes() {
    let mut process = Victim::start("prefixed.c", &[]);
    let tracer = Tracer::attach(&process, &["-v", "--no-follow"]);
    process.work();
    let finished = tracer.stop();
    let lines =
        |wanted: &[&str]| finished.stderr.lines().filter(|line| wanted.iter().all(|part| line.contains(part))).count();
    assert!(lines(&["libc.so.6: ", "malloc", " at +"]) > 0, "{}", finished.stderr);
    assert_eq!(lines(&["libc.so.6: probed in 1 process"]), 1, "{}", finished.stderr);
    process.finish();
}

#[test]
fn an_object_that_does_not_exist_is_refused() {
    let victim = Victim::start("idle.c", &[]);
    let pid = victim.pid().to_string();
    Tracer::start_unready(&["-p", &pid, "--object", "/no/such/library.so"])
        .wait()
        .assert_refused(1, &["/no/such/library.so"]);
}

#[test]
fn an_object_that_is_no_program_is_refused() {
    let victim = Victim::start("idle.c", &[]);
    let pid = victim.pid().to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("library.so");
    for text in ["", "hello", "\u{7f}ELF\u{2}\u{1}\u{1}"] {
        fs::write(&file, text).unwrap();
        Tracer::start_unready(&["-p", &pid, "--object", path_str(&file)]).wait().assert_refused(1, &[path_str(&file)]);
    }
}

#[test]
fn a_prefix_that_nothing_has_is_refused() {
    let victim = build::victim("prefixed.c");
    let process = Victim::start("prefixed.c", &[]);
    let pid = process.pid().to_string();
    let options = ["-p", &pid, "--object", path_str(&victim), "--symbols-prefix", "theirs_"];
    Tracer::start_unready(&options).wait().assert_refused(1, &["theirs_"]);
}

#[test]
fn names_with_blanks_and_semicolons_do_not_break_the_outputs() {
    let directory = tempfile::tempdir().unwrap();
    let odd = directory.path().join("an odd;name (x)");
    build::copied(&build::victim("family.c"), &odd);
    let folded = directory.path().join("out.folded");
    let finished = Tracer::start_unready(&["--folded", path_str(&folded), "--", path_str(&odd), "run"]).wait();
    finished.lossless();
    let text = fs::read_to_string(folded).unwrap();
    for line in text.lines() {
        let (stack, value) = line.rsplit_once(' ').unwrap();
        value.parse::<u64>().unwrap();
        // Root, then at least the C library's start, main and the function that leaks: the name added no frame.
        let frames: Vec<_> = stack.split(';').collect();
        assert_eq!(frames.iter().filter(|frame| frame.contains("name")).count(), 1, "{line}");
        assert!(frames[0].contains("an odd"), "{line}");
    }
}
