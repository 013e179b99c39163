//! Functions of released allocators, byte for byte, and the sites that were found for them by hand and by measurement.
//!
//! `../fixtures/sites/README.md` says where they come from.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use leaktrace::probes::functions::{Signature, Table};
use leaktrace::probes::site::{Cost, Emulation, Function, Machine, Reason, Site, select};
use leaktrace_common::cookie::{self, Register};
use serde::Deserialize;

#[derive(Deserialize)]
pub struct Library {
    pub package: String,
    pub functions: Vec<Fixture>,
}

#[derive(Deserialize)]
pub struct Fixture {
    names: Vec<String>,
    address: String,
    site: Expected,
    code: String,
}

/// Either a place, or why the probe stays at a single-stepped entry.
#[derive(Deserialize)]
struct Expected {
    #[serde(default)]
    offset: u32,
    #[serde(default)]
    shift: u64,
    #[serde(default)]
    moved: BTreeMap<String, String>,
    stays: Option<String>,
}

impl Fixture {
    pub fn name(&self) -> &str {
        &self.names[0]
    }

    pub fn signature(&self) -> Signature {
        Table::new([], &[])
            .find(self.name().as_bytes())
            .unwrap_or_else(|| panic!("{} is unknown", self.name()))
            .signature
    }

    pub fn code(&self) -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&self.code[at..at + 2], 16).unwrap();
        (0..self.code.len()).step_by(2).map(digit).collect()
    }

    fn select(&self, emulation: Emulation) -> Site {
        select(&self.function(&self.code()), self.signature(), emulation).unwrap()
    }

    pub fn address(&self) -> u64 {
        u64::from_str_radix(self.address.trim_start_matches("0x"), 16).unwrap()
    }

    pub fn function<'a>(&self, code: &'a [u8]) -> Function<'a> {
        Function { machine: Machine::X86_64, address: self.address(), code, whole: true, entered_at: None }
    }
}

impl Expected {
    /// Where the C argument at this position is expected to be.
    fn register(&self, position: u8) -> Register {
        let passed = ["rdi", "rsi", "rdx", "rcx", "r8", "r9"][usize::from(position)];
        number(self.moved.get(passed).map_or(passed, String::as_str))
    }
}

/// Registers by their numbers.
pub const NAMES: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

fn number(register: &str) -> Register {
    Register(NAMES.iter().position(|name| *name == register).unwrap() as u8)
}

pub fn libraries() -> Vec<Library> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sites");
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.iter().map(|path| serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()).collect()
}

#[test]
fn released_libraries_get_the_sites_found_by_hand() {
    let mut checked = 0;
    for library in libraries() {
        for fixture in &library.functions {
            let what = format!("{} of {}", fixture.name(), library.package);
            let (site, expected) = (fixture.select(Emulation::BASELINE), &fixture.site);
            assert_eq!((site.offset, site.stack_shift), (expected.offset, expected.shift), "{what}");
            if let Some(why) = &expected.stays {
                let Reason::Fallback(fallback) = site.reason else { panic!("{what} does not stay") };
                assert_eq!((site.cost, fallback.to_string()), (Cost::Stepped, why.clone()), "{what}");
            } else {
                let reason = if expected.offset == 0 { Reason::Entry } else { Reason::Moved };
                assert_eq!((site.cost, site.reason), (Cost::Emulated, reason), "{what}");
            }
            let signature = fixture.signature();
            for (slot, position) in signature.positions().into_iter().enumerate() {
                if signature.kind.reads()[slot] {
                    assert_eq!(site.arguments[slot], expected.register(position), "{what}, argument {position}");
                }
            }
            checked += 1;
        }
    }
    // 18 builds, 2 to 26 functions each.
    assert!(checked > 180, "{checked} functions");
}

#[test]
fn every_site_of_a_released_library_is_emulated_or_its_entry() {
    for library in libraries() {
        for fixture in &library.functions {
            let site = fixture.select(Emulation::BASELINE);
            let code = fixture.code();
            let at = &code[site.offset as usize..];
            let is_emulated = (1..=at.len().min(6)).any(|length| super::is_emulated_everywhere(&at[..length]));
            assert!(is_emulated || (site.offset == 0 && site.cost == Cost::Stepped), "{}", fixture.name());
        }
    }
}

#[test]
fn newer_kernels_change_nothing_for_released_libraries() {
    for library in libraries() {
        for fixture in &library.functions {
            assert_eq!(fixture.select(Emulation::for_kernel(7, 2)), fixture.select(Emulation::BASELINE));
        }
    }
}

#[test]
fn the_cookie_says_what_the_fixture_says() {
    let mut mapped = 0;
    for library in libraries() {
        for fixture in &library.functions {
            let site = fixture.select(Emulation::BASELINE);
            let kind = fixture.signature().kind;
            let cookie = site.cookie(Machine::X86_64, kind);
            // Whatever moved may be an argument that is not read.
            if fixture.site.moved.is_empty() && fixture.site.shift == 0 {
                assert_eq!(cookie, 0, "{} of {}", fixture.name(), library.package);
            }
            if cookie != 0 {
                mapped += 1;
                assert_eq!(cookie::stack_shift(cookie), fixture.site.shift);
                for (slot, position) in fixture.signature().positions().into_iter().enumerate() {
                    if kind.reads()[slot] {
                        assert_eq!(cookie::register(cookie, slot as u32), fixture.site.register(position));
                    }
                }
            }
        }
    }
    assert!(mapped >= 10, "{mapped}");
}

#[test]
fn a_branch_from_elsewhere_keeps_the_probe_at_the_entry() {
    let libraries = libraries();
    let fixtures = libraries.iter().flat_map(|library| &library.functions).filter(|fixture| fixture.site.offset > 0);
    for fixture in fixtures {
        let code = fixture.code();
        for (entered_at, moves) in
            [(1, false), (u64::from(fixture.site.offset), false), (u64::from(fixture.site.offset) + 1, true)]
        {
            let function = Function {
                machine: Machine::X86_64,
                address: 0x1000,
                code: &code,
                whole: true,
                entered_at: Some(0x1000 + entered_at),
            };
            let site = select(&function, fixture.signature(), Emulation::BASELINE).unwrap();
            assert_eq!(site.offset > 0, moves, "{} entered at +{entered_at}", fixture.name());
        }
    }
}

#[test]
fn a_function_of_unknown_size_keeps_its_probe_at_the_entry() {
    for library in libraries() {
        for fixture in &library.functions {
            let code = fixture.code();
            let function =
                Function { machine: Machine::X86_64, address: 0x1000, code: &code, whole: false, entered_at: None };
            assert_eq!(select(&function, fixture.signature(), Emulation::BASELINE).unwrap().offset, 0);
        }
    }
}
