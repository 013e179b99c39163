//! The rules of `tidy`. A rule says what a part of the repository must not name.

use super::Breach;
use super::rust::{Kind, Word};
use anyhow::{Context as _, Result};

/// A longer file has more than one subject, and is to be split.
const MOST_LINES: usize = 600;
const MANY_LINES: usize = 400;

/// What a part of the repository must not name. Its tests may read and run anything.
struct Room {
    /// Files whose name starts with one of these.
    files: &'static [&'static str],
    /// Files to which the rule does not apply.
    except: &'static [&'static str],
    /// Paths, or beginnings of paths.
    paths: &'static [&'static str],
    /// Parts of strings.
    strings: &'static [&'static str],
    /// Macros and attributes, in tests as well.
    macros: &'static [&'static str],
    /// Why.
    why: &'static str,
}

const ROOMS: &[Room] = &[
    Room {
        files: &["leaktrace/src"],
        except: &[
            "leaktrace/src/kernel",
            // Asks aya what the kernel supports, for `doctor`.
            "leaktrace/src/host/features.rs",
        ],
        paths: &["aya", "aya_log"],
        strings: &[],
        macros: &[],
        why: "BPF maps and programs belong to the kernel room",
    },
    Room {
        files: &["leaktrace/src"],
        except: &["leaktrace/src/trace"],
        paths: &["tokio"],
        strings: &[],
        macros: &[],
        why: "waiting belongs to the trace",
    },
    Room {
        files: &["leaktrace/src"],
        except: &["leaktrace/src/elf"],
        // The paths and not the crate's name alone, which modules and variables share.
        paths: &["object::elf", "object::read", "object::pod", "object::LittleEndian", "object::NativeEndian"],
        strings: &[],
        macros: &[],
        why: "ELF files are read by the room elf",
    },
    Room {
        files: &["leaktrace/src/report"],
        except: &[],
        paths: &["procfs", "blazesym"],
        strings: &["/proc"],
        macros: &[],
        why: "a report sees the model and nothing of the running system",
    },
    Room {
        files: &["leaktrace/src/model"],
        except: &[],
        paths: &["procfs", "std::fs", "std::net", "std::process", "std::env"],
        strings: &["/proc"],
        macros: &[],
        why: "the model does no I/O",
    },
    Room {
        files: &["leaktrace/src/probes", "leaktrace/src/unwind_tables"],
        except: &["leaktrace/src/unwind_tables/tests"],
        paths: &["procfs", "std::fs", "std::net", "std::process", "std::env"],
        strings: &["/proc"],
        macros: &[],
        why: "it takes bytes and returns values",
    },
    Room {
        files: &["leaktrace-ebpf/src"],
        // Runs only at the ends of processes, and may log for those who debug leaktrace itself.
        except: &["leaktrace-ebpf/src/lifecycle.rs"],
        paths: &[],
        strings: &["\""],
        macros: &[],
        why: "the BPF programs hold no strings: they count, and userspace finds the words",
    },
    Room {
        files: &[
            "leaktrace/src",
            "leaktrace/sampler",
            "leaktrace-common/src",
            "leaktrace-ebpf/src",
            "leaktrace-fuzz/src",
            "xtask/src",
            "leaktrace/tests",
        ],
        except: &[],
        paths: &[],
        strings: &[],
        macros: &["todo", "unimplemented", "ignore"],
        why: "what is committed is finished, and its tests run",
    },
];

/// Which of our crates each manifest may depend on.
const DEPENDENCIES: [(&str, &[&str]); 6] = [
    ("leaktrace-common/Cargo.toml", &[]),
    ("leaktrace-ebpf/Cargo.toml", &["leaktrace-common"]),
    ("leaktrace/Cargo.toml", &["leaktrace-common"]),
    // It shares a file of leaktrace-common, and is linked with nothing.
    ("leaktrace/sampler/Cargo.toml", &[]),
    ("leaktrace-fuzz/Cargo.toml", &["leaktrace", "leaktrace-common"]),
    ("xtask/Cargo.toml", &[]),
];
const OURS: [&str; 6] =
    ["leaktrace", "leaktrace-sampler", "leaktrace-common", "leaktrace-ebpf", "leaktrace-fuzz", "xtask"];

/// Names of a program's own descriptors, which users may give instead of a file; these do not look at a process.
const OWN_DESCRIPTORS: &str = "/proc/self/fd";

/// Left-over notes, and paths of a developer's machine. Each in two parts, so that this file does not break its own rule.
const NOWHERE: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("/wo", "rk/"), concat!("../", "shared")];

/// The breaches in one file; `name` is its path in the repository, and `words` are its words where it is Rust.
pub fn check(name: &str, text: &str, words: &[Word]) -> Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for word in NOWHERE.iter().filter(|word| line.contains(**word)) {
            breaches.push(Breach { line: number + 1, what: format!("{word}: belongs in no committed file") });
        }
    }
    if let Some((_, allowed)) = DEPENDENCIES.iter().find(|(manifest, _)| *manifest == name) {
        breaches.extend(dependencies(text, allowed)?);
    }
    if is_source(name) && text.lines().count() > MOST_LINES {
        let what = format!("more than {MOST_LINES} lines: it has two subjects, split it by subject");
        breaches.push(Breach { line: 0, what });
    }
    for room in ROOMS.iter().filter(|room| room.contains(name)) {
        breaches.extend(words.iter().filter_map(|word| room.check(word)));
    }
    breaches.sort_by_key(|breach| breach.line);
    Ok(breaches)
}

/// What is allowed, and worth a thought.
pub fn hint(name: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (is_source(name) && (MANY_LINES + 1..=MOST_LINES).contains(&lines)).then(|| format!("{lines} lines: two subjects?"))
}

fn is_source(name: &str) -> bool {
    ["rs", "c", "cpp", "h"].contains(&extension(name))
}

/// What stands behind the last dot of a file's name.
pub fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

impl Room {
    fn contains(&self, file: &str) -> bool {
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| file.starts_with(prefix));
        begins(self.files) && !begins(self.except)
    }

    fn check(&self, word: &Word) -> Option<Breach> {
        let is_one_of = |paths: &[&str]| {
            let continues = |rest: &str| rest.is_empty() || rest.starts_with("::");
            paths.iter().any(|path| word.text.strip_prefix(path).is_some_and(continues))
        };
        let named = match word.kind {
            Kind::Macro if is_one_of(self.macros) => true,
            _ if word.in_test => false,
            Kind::Path | Kind::Macro => is_one_of(self.paths),
            // A byte string is data that the kernel reads, such as the licence.
            Kind::String if word.text.starts_with('b') => false,
            Kind::String => {
                let text = word.text.replace(OWN_DESCRIPTORS, "");
                self.strings.iter().any(|part| text.contains(part))
            }
        };
        named.then(|| Breach { line: word.line, what: format!("{}: {}", word.text, self.why) })
    }
}

fn dependencies(manifest: &str, allowed: &[&str]) -> Result<Vec<Breach>> {
    let manifest: toml_edit::DocumentMut = manifest.parse().context("the manifest")?;
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
    let named = tables.iter().filter_map(|table| manifest.get(table)?.as_table()).flat_map(|table| table.iter());
    Ok(named
        .filter(|(name, _)| OURS.contains(name) && !allowed.contains(name))
        .map(|(name, _)| Breach { line: 0, what: format!("depends on {name}: that turns the architecture round") })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::{super::rust::words, check};

    fn lines(name: &str, text: &str) -> Vec<usize> {
        let words = if super::extension(name) == "rs" { words(text).unwrap() } else { Vec::new() };
        check(name, text, &words).unwrap().into_iter().map(|breach| breach.line).collect()
    }

    #[test]
    fn a_report_may_not_look_at_the_running_system() {
        let source = "use crate::model;\nuse tokio::time;\nfn f() { read(\"/proc/self\", \"/proc/self/fd/1\") }\nlet x = aya::Ebpf::load();";
        assert_eq!(lines("leaktrace/src/report/text.rs", source), [2, 3, 4]);
        assert_eq!(lines("leaktrace/src/trace/run.rs", source), [4]);
        assert_eq!(lines("leaktrace/src/lives/discovery.rs", source), [2, 4]);
        assert_eq!(lines("leaktrace/src/kernel/mod.rs", source), [2]);
    }

    #[test]
    fn elf_files_are_read_in_one_place() {
        let source = "use object::elf::FileHeader64;\nuse crate::elf::Elf;\nuse super::object::Object;";
        assert_eq!(lines("leaktrace/src/symbolize/plt.rs", source), [1]);
        assert_eq!(lines("leaktrace/src/elf/header.rs", source), [0; 0]);
    }

    #[test]
    fn the_model_does_no_io_but_its_tests_may() {
        let source = "use std::{fmt, fs};\n#[cfg(test)]\nmod tests { use std::fs; }";
        assert_eq!(lines("leaktrace/src/model/types.rs", source), [1]);
    }

    #[test]
    fn bpf_programs_hold_no_strings_but_attributes_do() {
        let source = "#[link_section = \"license\"]\nstatic L: [u8; 2] = *b\"x\\0\";\nfn f() { info!(\"hello\") }";
        assert_eq!(lines("leaktrace-ebpf/src/main.rs", source), [3]);
        assert_eq!(lines("leaktrace-ebpf/src/lifecycle.rs", source), [0; 0]);
    }

    #[test]
    fn unfinished_work_and_ignored_tests_are_found() {
        let source = "fn f() { todo!() }\n#[test]\n#[ignore]\nfn g() {}\nfn h(ignore: bool) {}";
        assert_eq!(lines("leaktrace/src/cli.rs", source), [1, 3]);
        assert_eq!(lines("README.md", concat!("a\nTO", "DO: b")), [2]);
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(lines("leaktrace/src/cli.rs", &"\n".repeat(601)), [0]);
        assert_eq!(lines("leaktrace/src/cli.rs", &"\n".repeat(600)), [0; 0]);
    }

    #[test]
    fn dependencies_point_one_way() {
        let manifest = "[dependencies]\nleaktrace-common = {}\nserde = \"1\"\n";
        assert_eq!(lines("leaktrace-common/Cargo.toml", manifest), [0]);
        assert_eq!(lines("leaktrace/Cargo.toml", manifest), [0; 0]);
    }
}
