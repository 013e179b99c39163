//! Code that a just-in-time compiler placed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Names, Victim, compile, functions, scratch};

#[test]
fn jitted_functions_have_the_names_that_their_compiler_wrote() {
    let dir = scratch();
    let program = dir.path().join("jit");
    compile("jit.c", &program, &["-g"]);
    let mut victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let frames = names.returning(&space, victim.address("first"));
    assert_eq!(functions(&frames), ["LazyCompile:*first /srv/app.js:10:5"]);
    assert_eq!(frames[0].module.as_deref(), Some(Path::new("[anon]")));
    assert_eq!(frames[0].module_offset, None, "anonymous memory has no numbering of its own");
    assert_eq!(functions(&names.returning(&space, victim.address("gap"))), ["-"]);
    assert_eq!(functions(&names.returning(&space, victim.address("second"))), ["-"]);

    // What is compiled after the capture, by a process that ends before the report.
    let then = space.as_of_now();
    victim.step();
    let (pid, second) = (victim.pid(), victim.address("second"));
    victim.end();
    fs::remove_file(format!("/tmp/perf-{pid}.map")).expect("its map");
    assert_eq!(functions(&names.returning(&then, second)), ["-"], "nobody had said it by then");
    assert_eq!(functions(&names.returning(&space, second)), ["second"]);
}

#[test]
fn a_map_of_another_user_is_not_believed() {
    let dir = scratch();
    let program = dir.path().join("jit");
    compile("jit.c", &program, &["-g"]);
    let victim = Victim::start(&mut Command::new(&program));
    let map = format!("/tmp/perf-{}.map", victim.pid());
    // Anybody may write a file of that name.
    std::os::unix::fs::chown(&map, Some(54_321), None).expect("root may");
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    assert_eq!(functions(&names.returning(&space, victim.address("first"))), ["-"]);
    fs::remove_file(map).expect("its map");
}

#[test]
fn the_map_is_found_in_the_namespaces_of_its_process() {
    let dir = scratch();
    let program = dir.path().join("jit");
    // Static: in there, /tmp is another.
    compile("jit.c", &program, &["-g", "-static"]);
    let mut command = Command::new("unshare");
    let script = "exec 9<\"$1\"; mount -t tmpfs none /tmp && exec /proc/self/fd/9";
    command.args(["--mount", "--pid", "--fork", "sh", "-c", script, "sh"]).arg(&program);
    let mut victim = Victim::start(&mut command);
    victim.step_into_child();
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let address = victim.address("first");
    victim.end();
    // There its pid is 1, and here no such file is.
    assert_eq!(functions(&names.returning(&space, address)), ["LazyCompile:*first /srv/app.js:10:5"]);
}
