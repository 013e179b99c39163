//! Where each kind of program is held, and that nothing of it has run by then.

use std::fs;
use std::path::{Path, PathBuf};

use leaktrace::process::launch::{Ending, Event, HeldAt, Launched};

use super::support::{Programs, QUIET, hold, maps, readable, see_through, state, wait_for, words};

/// Builds a program and a library with a constructor; both leave word in the notes.
fn with_library(programs: &Programs, compiler: &str, options: &[&str]) -> (PathBuf, PathBuf) {
    let notes = programs.notes();
    let note = format!("-DNOTE=\"{}\"", notes.display());
    let mut library = vec!["-shared", "-fPIC", note.as_str()];
    library.extend(options.iter().filter(|&&option| option != "-no-pie"));
    programs.build(compiler, "constructor.c", "libconstructor.so", &library);
    let home = programs.path("").display().to_string();
    let search = format!("-Wl,-rpath,{home}");
    let directory = format!("-L{home}");
    let program = [&[directory.as_str(), search.as_str(), "-lconstructor"], options].concat();
    (programs.build(compiler, "noting.c", "noting", &program), notes)
}

/// Holds `command`, checks that all is mapped and nothing noted, and sees it through.
fn held_before_its_constructor(command: &[&Path], notes: &Path) {
    let command: Vec<_> = command.iter().map(|word| word.as_os_str().to_owned()).collect();
    wait_for(async {
        let (mut launched, held) = hold(&command).await;
        assert_eq!(held.at(), HeldAt::Mapped);
        let maps = maps(launched.pid().0);
        assert!(maps.contains("libconstructor.so"), "{maps}");
        assert!(maps.contains("libc"), "{maps}");
        assert_eq!(state(launched.pid().0), 't');
        assert_eq!(fs::read_to_string(notes).unwrap(), "", "no constructor has run");
        held.release();
        let (events, ending) = see_through(&mut launched).await;
        assert_eq!((events, ending), (vec!["exiting"], Ending::Exited(7)));
        assert_eq!(fs::read_to_string(notes).unwrap(), "cm");
    });
}

#[test]
fn a_librarys_constructor_waits_for_the_release() {
    let programs = Programs::new();
    let (program, notes) = with_library(&programs, "cc", &[]);
    held_before_its_constructor(&[&program], &notes);
}

#[test]
fn programs_at_fixed_addresses_are_held_too() {
    let programs = Programs::new();
    let (program, notes) = with_library(&programs, "cc", &["-no-pie"]);
    held_before_its_constructor(&[&program], &notes);
}

#[test]
fn programs_without_read_only_relocations_are_held_too() {
    let programs = Programs::new();
    let (program, notes) = with_library(&programs, "cc", &["-Wl,-z,norelro"]);
    held_before_its_constructor(&[&program], &notes);
}

#[test]
fn programs_bound_at_start_are_held_too() {
    let programs = Programs::new();
    let (program, notes) = with_library(&programs, "cc", &["-Wl,-z,now"]);
    held_before_its_constructor(&[&program], &notes);
}

#[test]
fn musl_programs_are_held_too() {
    let programs = Programs::new();
    let (program, notes) = with_library(&programs, "musl-gcc", &[]);
    held_before_its_constructor(&[&program], &notes);
}

#[test]
fn musl_programs_without_read_only_relocations_are_held_too() {
    let programs = Programs::new();
    let (program, notes) = with_library(&programs, "musl-gcc", &["-Wl,-z,norelro"]);
    held_before_its_constructor(&[&program], &notes);
}

#[test]
fn a_program_given_to_the_dynamic_linker_is_held() {
    let programs = Programs::new();
    let (program, notes) = with_library(&programs, "cc", &[]);
    let linker = fs::canonicalize("/lib64/ld-linux-x86-64.so.2").unwrap();
    held_before_its_constructor(&[&linker, &program], &notes);
}

#[test]
fn static_programs_are_held_at_their_exec() {
    let programs = Programs::new();
    for (compiler, options) in [("cc", &["-static"][..]), ("cc", &["-static-pie"]), ("musl-gcc", &["-static"])] {
        let program = programs.build(compiler, "ending.c", "ending", &[&["-pthread"], options].concat());
        let command = [program.into_os_string(), "return".into()];
        wait_for(async {
            let (mut launched, held) = hold(&command).await;
            assert_eq!(held.at(), HeldAt::Exec, "{compiler} {options:?}");
            assert!(maps(launched.pid().0).contains("/ending"));
            held.release();
            assert_eq!(see_through(&mut launched).await.1, Ending::Exited(3));
        });
    }
}

#[test]
fn scripts_are_held_in_their_interpreter() {
    let programs = Programs::new();
    for (name, first_line) in [("with", "#!/bin/sh\n"), ("without", "")] {
        let script = programs.write(name, format!("{first_line}exit $1\n").as_bytes());
        wait_for(async {
            let (mut launched, held) = hold(&[script.into_os_string(), "9".into()]).await;
            assert_eq!(held.at(), HeldAt::Mapped);
            assert!(maps(launched.pid().0).contains("/libc"));
            held.release();
            assert_eq!(see_through(&mut launched).await.1, Ending::Exited(9), "{name} a first line");
        });
    }
}

#[test]
fn a_program_executed_later_is_held_again() {
    let programs = Programs::new();
    let (program, notes) = with_library(&programs, "cc", &[]);
    let command = words(["sh", "-c", "exec \"$0\"", program.to_str().unwrap()]);
    wait_for(async {
        let (mut launched, held) = hold(&command).await;
        assert!(!maps(launched.pid().0).contains("libconstructor.so"));
        held.release();
        let Event::Held(held) = launched.next_event().await else { panic!("not held") };
        assert_eq!(held.at(), HeldAt::Mapped);
        assert!(maps(launched.pid().0).contains("libconstructor.so"));
        assert_eq!(fs::read_to_string(&notes).unwrap(), "");
        held.release();
        assert_eq!(see_through(&mut launched).await, (vec!["exiting"], Ending::Exited(7)));
    });
    wait_for(async {
        let options = leaktrace::process::launch::LaunchOptions { hold_later_programs: false, ..QUIET };
        let mut launched = Launched::spawn(&command, options).unwrap();
        launched.hold_until_mapped().await.unwrap().release();
        assert_eq!(see_through(&mut launched).await, (vec!["exiting"], Ending::Exited(7)), "unless told not to");
    });
}

#[test]
fn a_command_that_was_never_released_is_ended_when_given_up() {
    let programs = Programs::new();
    let (program, notes) = with_library(&programs, "cc", &[]);
    wait_for(async {
        let mut launched = Launched::spawn(&[program.clone().into_os_string()], QUIET).unwrap();
        let held = launched.hold_until_mapped().await.unwrap();
        let pidfd = launched.pidfd().try_clone_to_owned().unwrap();
        drop((launched, held));
        assert!(readable(&pidfd, super::support::PATIENCE), "it has ended");
        assert_eq!(fs::read_to_string(&notes).unwrap(), "");
    });
    let launched = Launched::spawn(&[program.into_os_string()], QUIET).unwrap();
    let pidfd = launched.pidfd().try_clone_to_owned().unwrap();
    drop(launched);
    assert!(readable(&pidfd, super::support::PATIENCE), "also at its exec");
}

#[test]
fn a_command_that_is_killed_while_held_has_ended() {
    wait_for(async {
        let (mut launched, held) = hold(&words(["cat"])).await;
        launched.signal(libc::SIGKILL).unwrap();
        held.release();
        assert_eq!(see_through(&mut launched).await.1, Ending::Killed { signal: libc::SIGKILL, dumped: false });
        assert_eq!(launched.signal(libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    });
}

#[test]
fn a_missing_library_ends_the_command_before_it_is_held() {
    let programs = Programs::new();
    let (program, notes) = with_library(&programs, "cc", &[]);
    fs::remove_file(programs.path("libconstructor.so")).unwrap();
    wait_for(async {
        let mut launched = Launched::spawn(&[program.into_os_string()], QUIET).unwrap();
        assert_eq!(launched.hold_until_mapped().await.unwrap_err(), Ending::Exited(127), "as the linker has it");
    });
    assert_eq!(fs::read_to_string(notes).unwrap(), "");
}

#[test]
fn what_cannot_be_executed_is_named() {
    let programs = Programs::new();
    let place = |name: &str, text: &[u8]| {
        Launched::spawn(&[programs.write(name, text).into_os_string()], QUIET).unwrap_err().to_string()
    };
    let error = place("script", b"#!/nonexistent/interpreter\n");
    assert!(error.contains("/script`: the interpreter it asks for"), "{error}");
    let error = place("broken", b"\x7fELF and no more");
    assert!(error.contains("/broken`: it is not in a format"), "{error}");
    let error = Launched::spawn(&words(["no-such-command"]), QUIET).unwrap_err().to_string();
    assert_eq!(error, "command not found: `no-such-command`");
}
