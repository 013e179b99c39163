//! With an interval of one byte every allocation is a sample: the sampler's books are the program's own, to the last block.

use crate::support::{Victim, archive, compile, library};
use std::path::{Path, PathBuf};
use std::process::Command;

const JEMALLOC: &str = "libjemalloc.so.2";
const TCMALLOC: &str = "libtcmalloc_minimal.so.4";
const MIMALLOC: &str = "libmimalloc.so.2";

fn family() -> PathBuf {
    compile("cc", "family", &["family.c", "-pthread"])
}

/// Runs a victim between its gates while the semaphores are up, and compares.
fn exact(mut victim: Victim, file: &Path) {
    assert_eq!(victim.gate(), (0, 0));
    victim.listen_in(file, true);
    let before = victim.books_in(file);
    assert_eq!((before.samples, before.frees, before.floor, before.flags), (0, 0, 1, 0));
    victim.go();
    let (allocations, frees) = victim.gate();
    let books = victim.books_in(file);
    assert_eq!(books.samples, allocations);
    // Of what was sampled before, some may be freed.
    assert!((frees..=frees + victim.held_before()).contains(&books.frees), "{books:?}, {frees} frees");
    assert_eq!((books.full, books.missed_frees), (0, 0));
    assert!(allocations > 1000);
    victim.end();
}

#[test]
fn of_the_malloc_family_over_glibc() {
    exact(Victim::start(&family(), &["1", "300"], &[], "1"), library());
}

#[test]
fn of_the_malloc_family_in_eight_threads() {
    exact(Victim::start(&family(), &["8", "500"], &[], "1"), library());
}

#[test]
fn of_the_malloc_family_over_other_allocators() {
    for allocator in [JEMALLOC, TCMALLOC, MIMALLOC] {
        println!("{allocator} preloaded");
        exact(Victim::start(&family(), arguments(allocator), &[allocator], "1"), library());
    }
    for (name, option) in [
        ("family-jemalloc", "-ljemalloc"),
        ("family-tcmalloc", "-ltcmalloc_minimal"),
        ("family-mimalloc", "-lmimalloc"),
    ] {
        println!("{name}");
        let victim = compile("cc", name, &["family.c", "-pthread", "-Wl,--no-as-needed", option]);
        exact(Victim::start(&victim, arguments(name), &[], "1"), library());
    }
}

/// jemalloc leaves `pvalloc` to glibc, whose blocks it cannot free.
fn arguments(allocator: &str) -> &'static [&'static str] {
    if allocator.contains("jemalloc") { &["4", "200", "without pvalloc"] } else { &["4", "200"] }
}

#[test]
fn of_c_plus_plus_operators() {
    let victim = compile("c++", "operators", &["-std=c++17", "operators.cpp"]);
    exact(Victim::start(&victim, &["300"], &[], "1"), library());
    for allocator in [JEMALLOC, TCMALLOC, MIMALLOC] {
        println!("{allocator}");
        // Debian's mimalloc is compiled as C: where C++ throws, it aborts.
        let arguments = if allocator == MIMALLOC { &["300", "no exceptions"][..] } else { &["300"] };
        exact(Victim::start(&victim, arguments, &[allocator], "1"), library());
    }
}

#[test]
fn of_a_plug_in_with_a_runtime_of_its_own() {
    let host = compile("cc", "host", &["host.c"]);
    for (name, option) in [("plugin.so", "-shared-libgcc"), ("plugin-static.so", "-static-libstdc++")] {
        let plugin = compile("c++", name, &["-std=c++17", "-DPLUGIN", "-shared", "-fPIC", option, "operators.cpp"]);
        println!("{name}");
        exact(Victim::start(&host, &[plugin.to_str().unwrap()], &[], "1"), library());
    }
}

#[test]
fn the_dynamic_linker_is_not_asked_while_a_constructor_waits_for_a_thread() {
    let host = compile("cc", "host-locked", &["host.c"]);
    let plugin = compile("c++", "locked.so", &["-std=c++17", "-shared", "-fPIC", "-pthread", "locked.cpp"]);
    let mut victim = Victim::start(&host, &[plugin.to_str().unwrap()], &[], "1");
    assert_eq!(victim.gate(), (0, 0));
    victim.listen(true);
    victim.go();
    assert_eq!(victim.gate(), (7, 7));
    let books = victim.books();
    assert_eq!((books.samples, books.frees), (7, 7));
    victim.end();
}

#[test]
fn of_a_program_of_musl() {
    let victim = compile("musl-gcc", "family-musl", &["family.c", "-pthread"]);
    exact(Victim::start(&victim, &["4", "200"], &[], "1"), library());
}

/// The names by which a static program gets at the real functions: see `static.args`.
fn static_archive() -> PathBuf {
    let renamed = archive().with_file_name("sampler-victims").join("libleaktrace_sampler_static.a");
    std::fs::create_dir_all(renamed.parent().unwrap()).unwrap();
    let draft = renamed.with_extension(format!("{:?}", std::thread::current().id()));
    let names = Path::new(env!("CARGO_MANIFEST_DIR")).join("static.syms");
    let mut objcopy = Command::new("objcopy");
    objcopy.arg(format!("--redefine-syms={}", names.display())).arg(archive()).arg(&draft);
    assert!(objcopy.status().unwrap().success());
    std::fs::rename(draft, &renamed).unwrap();
    renamed
}

#[test]
fn of_static_programs() {
    let archive = static_archive();
    let arguments = format!("@{}", Path::new(env!("CARGO_MANIFEST_DIR")).join("static.args").display());
    for (compiler, name) in [("cc", "family-static"), ("musl-gcc", "family-static-musl")] {
        println!("{name}");
        let parts = ["-static", "family.c", "-pthread", &arguments, archive.to_str().unwrap()];
        let victim = compile(compiler, name, &parts);
        exact(Victim::of(Command::new(&victim).args(["4", "200"]), "1"), &victim);
    }
    println!("operators-static");
    let more = arguments.replace("static.args", "static-c++.args");
    let parts = ["-std=c++17", "-static", "operators.cpp", &arguments, &more, archive.to_str().unwrap()];
    let victim = compile("c++", "operators-static", &parts);
    exact(Victim::of(Command::new(&victim).arg("300"), "1"), &victim);
}

/// Who listens later is told of the frees of what was there before.
#[test]
fn samples_are_drawn_also_while_nobody_listens() {
    let mut victim = Victim::start(&family(), &["4", "300"], &[], "1");
    victim.gate();
    let before = victim.books();
    victim.go();
    let (allocations, frees) = victim.gate();
    assert!(allocations > 1000);
    let books = victim.books();
    assert_eq!((books.samples - before.samples, books.frees - before.frees, books.full), (allocations, frees, 0));
    victim.end();
}

fn many() -> PathBuf {
    compile("cc", "many", &["many.c"])
}

#[test]
fn what_was_sampled_leaves_the_set_also_when_nobody_listens_any_more() {
    let mut victim = Victim::start(&many(), &["5000"], &[], "1");
    victim.gate();
    victim.listen(true);
    victim.go();
    victim.gate();
    assert_eq!(victim.books().samples, 5000);
    victim.listen(false);
    victim.go();
    assert_eq!(victim.gate(), (5000, 5000));
    let books = victim.books();
    assert_eq!((books.samples, books.frees), (5000, 5000));
    victim.end();
}

#[test]
fn a_full_set_is_said_and_what_is_in_it_stays_exact() {
    let (number, slots) = (200_000, 1 << 17);
    let mut victim = Victim::start(&many(), &[&number.to_string(), "24"], &[], "1");
    victim.gate();
    victim.listen(true);
    victim.go();
    victim.gate();
    let books = victim.books();
    assert_eq!(books.samples + books.full, number);
    assert!((slots * 4 / 5..=slots).contains(&books.samples), "{books:?}");
    victim.go();
    victim.gate();
    let after = victim.books();
    assert_eq!((after.samples, after.frees, after.missed_frees), (books.samples, books.samples, 0));
    victim.end();
}

#[test]
fn frees_by_functions_that_we_do_not_stand_before_are_found_out() {
    let missed = compile("cc", "missed", &["missed.c", "-ljemalloc"]);
    let mut victim = Victim::start(&missed, &[], &[], "1");
    victim.gate();
    victim.listen(true);
    victim.go();
    assert_eq!(victim.gate(), (1000, 1000));
    let books = victim.books();
    assert_eq!((books.samples, books.frees), (1000, books.missed_frees));
    assert!(books.missed_frees > 900, "{books:?}");
    victim.end();
}

#[test]
fn a_program_with_a_malloc_of_its_own_is_said_to_have_one() {
    let parts = ["family.c", "-pthread", "-l:libjemalloc_pic.a", "-lstdc++", "-lm", "-ldl"];
    let victim = compile("cc", "family-own", &parts);
    let mut victim = Victim::start(&victim, &["1", "50", "without pvalloc"], &[], "1");
    victim.gate();
    victim.listen(true);
    victim.go();
    victim.gate();
    let books = victim.books();
    assert_eq!((books.flags, books.samples), (2, 0));
    victim.end();
}

#[test]
fn a_program_without_system_calls_lives_on() {
    let sealed = compile("cc", "sealed", &["sealed.c"]);
    for interval in ["1", "4k"] {
        let mut victim = Victim::start(&sealed, &[], &[], interval);
        victim.gate();
        victim.listen(true);
        victim.go();
        assert_eq!(victim.gate(), (100_000, 100_000));
        let books = victim.books();
        assert!(if interval == "1" { books.samples == 100_000 } else { books.samples > 20 }, "{books:?}");
        assert_eq!(books.samples, books.frees);
        victim.end();
    }
}

#[test]
fn threads_forks_and_signals_for_three_seconds() {
    for interval in ["1", "4k"] {
        for others in [&[][..], &[JEMALLOC][..]] {
            let storm = compile("cc", "storm", &["storm.c", "-pthread"]);
            let mut victim = Victim::start(&storm, &["3"], others, interval);
            victim.gate();
            victim.listen(true);
            victim.go();
            let (forks, threads) = victim.gate();
            let books = victim.books();
            println!("{interval} {others:?}: {forks} forks, {threads} threads, {books:?}");
            assert!(forks > 50 && threads > 50, "{forks} {threads}");
            assert!(books.samples > 100 && books.samples >= books.frees);
            assert_eq!((books.full, books.missed_frees), (0, 0));
            // What is left is at most the threads' own: their blocks were handed round and freed at the end.
            assert!(books.samples - books.frees < 200, "{books:?}");
            victim.end();
        }
    }
}
