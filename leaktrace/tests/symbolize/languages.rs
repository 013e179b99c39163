//! What compilers make of functions: inlined calls, lines, templates, stubs, and where functions end.

use std::path::Path;
use std::process::Command;

use leaktrace::model::Address;
use leaktrace::symbolize::CodeAddress;

use crate::harness::{Names, Victim, compile, functions, line, places, run, scratch, symbol};

#[test]
fn inlined_calls_are_frames_of_their_own_with_the_line_of_each_call() {
    let dir = scratch();
    let program = dir.path().join("plain");
    compile("plain.c", &program, &["-g"]);
    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);

    let frames = names.returning(&space, victim.address("inlined"));
    assert_eq!(functions(&frames), ["inlined_leaf", "inlined_middle", "outer"]);
    let expected = ["leaf", "middle", "outer"].map(|marker| format!("plain.c:{}", line("plain.c", marker)));
    assert_eq!(places(&frames), expected);
    assert_eq!(frames.iter().map(|frame| frame.inlined).collect::<Vec<_>>(), [true, true, false]);
    assert!(frames.iter().all(|frame| frame.module.as_deref() == Some(&program)));
    assert!(frames[0].file.as_ref().is_some_and(|file| file.is_absolute()));

    let frames = names.returning(&space, victim.address("hidden"));
    assert_eq!(functions(&frames), ["hidden"]);
    assert_eq!(places(&frames), [format!("plain.c:{}", line("plain.c", "hidden"))]);
    assert_eq!(names.notes(), [""; 0]);
}

#[test]
fn the_offset_is_the_address_that_binutils_show() {
    let dir = scratch();
    let program = dir.path().join("plain");
    for flags in [["-g", "-pie"], ["-g", "-no-pie"]] {
        compile("plain.c", &program, &flags);
        let victim = Victim::start(&mut Command::new(&program));
        let mut names = Names::new(&[]);
        let space = victim.capture(&names.store);
        let frames = names.exact(&space, victim.address("outer"));
        assert_eq!(functions(&frames), ["outer"]);
        assert_eq!(frames[0].module_offset, Some(symbol(&program, "outer").0), "{flags:?}");
    }
}

#[test]
fn a_call_that_never_returns_belongs_to_its_caller() {
    let dir = scratch();
    let program = dir.path().join("plain");
    compile("plain.c", &program, &["-g"]);
    let (start, size) = symbol(&program, "never_returns");
    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);

    let frames = names.returning(&space, victim.address("past_end"));
    assert_eq!(functions(&frames), ["never_returns"]);
    assert_eq!(places(&frames), [format!("plain.c:{}", line("plain.c", "never_returns"))]);
    // The return address is where the function has ended already, and is shown as it was captured.
    assert_eq!(frames[0].module_offset, Some(start + size));
}

#[test]
fn between_functions_there_is_no_name() {
    let dir = scratch();
    let program = dir.path().join("plain");
    for flags in [&["-g"][..], &["-s", "-rdynamic"], &[]] {
        compile("plain.c", &program, flags);
        let unstripped = dir.path().join("unstripped");
        compile("plain.c", &unstripped, &["-g", "-rdynamic"]);
        let size = symbol(&unstripped, "outer").1;
        assert!(!size.is_multiple_of(64), "there is a gap before the next function");
        let victim = Victim::start(&mut Command::new(&program));
        let mut names = Names::new(&[]);
        let space = victim.capture(&names.store);
        let start = victim.address("outer");
        assert_eq!(functions(&names.exact(&space, start + size - 1)), ["outer"], "{flags:?}");
        let gap = names.exact(&space, start + size);
        assert_eq!(functions(&gap), ["-"], "{flags:?}");
        assert_eq!(places(&gap), ["-"], "{flags:?}");
        assert_eq!(gap[0].module.as_deref(), Some(&*program));
        assert_eq!(gap[0].module_offset.map(|offset| offset % 64), Some(size % 64));
    }
}

#[test]
fn a_symbol_without_a_size_names_its_first_address_alone() {
    let dir = scratch();
    let program = dir.path().join("plain");
    for flags in [&["-g"][..], &[], &["-s", "-rdynamic"]] {
        compile("plain.c", &program, flags);
        let victim = Victim::start(&mut Command::new(&program));
        let mut names = Names::new(&[]);
        let space = victim.capture(&names.store);
        let start = victim.address("sizeless");
        assert_eq!(functions(&names.exact(&space, start)), ["sizeless"], "{flags:?}");
        assert_eq!(functions(&names.exact(&space, start + 8)), ["-"], "{flags:?}");
    }
}

/// Function and line of every frame at every address of a program that has names are those that binutils give, and every
/// address that has none lies in no symbol.
#[test]
fn every_address_agrees_with_binutils() {
    let dir = scratch();
    let program = dir.path().join("plain");
    compile("plain.c", &program, &["-g", "-no-pie"]);
    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let symbols = all_symbols(&program);
    let start = symbols.iter().map(|(start, _)| *start).min().expect("symbols");
    let end = symbols.iter().map(|(_, end)| *end).max().expect("symbols");
    assert!(end - start > 500 && end - start < 100_000);

    let addresses: Vec<u64> = (start..end).collect();
    let input = addresses.iter().fold(String::new(), |text, address| text + &format!("{address:#x}\n"));
    let list = dir.path().join("addresses");
    std::fs::write(&list, input).expect("written");
    let mut addr2line = Command::new("addr2line");
    let text = run(addr2line.args(["-afie"]).arg(&program).stdin(std::fs::File::open(&list).expect("open")));
    let theirs: Vec<&str> = text.split("0x").skip(1).collect();
    assert_eq!(theirs.len(), addresses.len());

    let (mut with_lines, mut nameless) = (0, 0);
    let wanted: Vec<_> = addresses.iter().map(|&address| CodeAddress::exact(Address(address))).collect();
    let frames = names.symbolizer.resolve(&space, &wanted);
    for ((&address, theirs), frames) in addresses.iter().zip(theirs).zip(frames) {
        let ours: Vec<_> = frames.iter().map(|frame| (frame.function.as_deref(), frame.line)).collect();
        if ours.last() == Some(&(None, None)) {
            assert!(!symbols.iter().any(|(start, end)| (*start..*end).contains(&address)), "{address:#x}");
            nameless += 1;
        } else if ours.iter().all(|(_, line)| line.is_some()) {
            let lines: Vec<&str> = theirs.lines().skip(1).collect();
            let theirs: Vec<_> = lines
                .chunks_exact(2)
                .map(|pair| {
                    let place = pair[1].split(" (discriminator").next().unwrap_or_default();
                    (Some(pair[0]), place.rsplit(':').next().and_then(|line| line.parse().ok()))
                })
                .collect();
            assert_eq!(ours, theirs, "{address:#x}");
            with_lines += 1;
        }
    }
    assert!(with_lines > 200 && nameless > 100, "{with_lines} {nameless}");
}

/// First and last of all functions that have a size.
fn all_symbols(program: &Path) -> Vec<(u64, u64)> {
    let text = run(Command::new("nm").args(["-S", "--defined-only"]).arg(program));
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    text.lines()
        .filter_map(|line| match *line.split_ascii_whitespace().collect::<Vec<_>>() {
            [start, size, "T" | "t" | "W", _] => Some((hex(start)?, hex(start)? + hex(size)?)),
            _ => None,
        })
        .collect()
}

#[test]
fn cpp_names_read_as_cxxfilt_prints_them() {
    let dir = scratch();
    let program = dir.path().join("modern");
    compile("modern.cpp", &program, &["-g"]);
    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let mut name = |what: &str| functions(&names.returning(&space, victim.address(what))).join(" < ");
    assert_eq!(name("constructor"), "shop::Box<int>::Box(int)");
    assert_eq!(
        name("template"),
        "long shop::Box<int>::fill<long>(long, \
         std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> > const&)"
    );
    assert_eq!(name("unnamed_namespace"), "(anonymous namespace)::overloaded(int)");
    assert_eq!(name("whole_lambda"), "main::{lambda(long)#2}::operator()(long) const");
    let frames = names.returning(&space, victim.address("lambda"));
    let chain = functions(&frames);
    // Of a function that exists only inlined gcc records no more than this.
    assert_eq!(chain[..2], ["inlined_into_lambda", "operator()"]);
    assert!(
        chain.last().is_some_and(|name| name.starts_with("std::_Function_handler<int (int), main::{lambda(int)#1}>"))
    );
    let expected = ["inlined_into_lambda", "lambda"].map(|marker| format!("modern.cpp:{}", line("modern.cpp", marker)));
    assert_eq!(places(&frames)[..2], expected);
}

#[inline(never)]
fn generic<T: std::fmt::Debug>(value: &T) -> usize {
    format!("{value:?}").len()
}

#[test]
fn rust_names_read_as_written() {
    let mut names = Names::new(&[]);
    let pid = leaktrace::model::Pid(std::process::id());
    let space = leaktrace::process::maps::AddressSpace::capture(pid, &names.store).expect("own mappings");
    let name = |names: &mut Names, address: usize| names.exact(&space, address as u64);

    let frames = name(&mut names, generic::<u32> as fn(&u32) -> usize as usize);
    let function = frames.last().and_then(|frame| frame.function.as_deref());
    assert!(function.is_some_and(|function| function.starts_with("symbolize::languages::generic")), "{function:?}");
    assert_eq!(places(&frames).last().map(|place| place.starts_with("languages.rs:")), Some(true));
    assert_eq!(generic(&7u32), 1);

    let frames = name(&mut names, rust_names_read_as_written as fn() as usize);
    assert_eq!(functions(&frames).last(), Some(&"symbolize::languages::rust_names_read_as_written"));
}

#[test]
fn functions_of_a_stripped_library_have_their_exported_names() {
    let dir = scratch();
    let program = dir.path().join("plain");
    compile("plain.c", &program, &["-g"]);
    let victim = Victim::start(&mut Command::new(&program));
    let mut names = Names::new(&[]);
    let space = victim.capture(&names.store);
    let frames = names.exact(&space, victim.address("malloc"));
    assert_eq!(functions(&frames), ["malloc"]);
    assert!(frames[0].module.as_ref().is_some_and(|module| module.ends_with("libc.so.6")));
}

#[test]
fn stubs_of_the_linkage_table_are_named_after_what_they_call() {
    let dir = scratch();
    let program = dir.path().join("plain");
    // Lazy, eager, and with branch tracking: three layouts.
    for flags in
        [&["-no-pie", "-Wl,-z,lazy"][..], &["-no-pie", "-Wl,-z,now"], &["-no-pie", "-fcf-protection", "-Wl,-z,ibtplt"]]
    {
        compile("plain.c", &program, flags);
        let stub = stub(&program, "free");
        let victim = Victim::start(&mut Command::new(&program));
        let mut names = Names::new(&[]);
        let space = victim.capture(&names.store);
        assert_eq!(functions(&names.exact(&space, stub)), ["free@plt"], "{flags:?}");
        assert_eq!(functions(&names.exact(&space, stub + 4)), ["free@plt"], "{flags:?}");
    }
}

/// The address that objdump gives to `<name@plt>`.
fn stub(program: &Path, name: &str) -> u64 {
    let text = run(Command::new("objdump").arg("-d").arg(program));
    let label = format!(" <{name}@plt>:");
    let address = text.lines().find_map(|line| line.strip_suffix(&label)).expect("a stub");
    u64::from_str_radix(address, 16).expect("hexadecimal")
}
