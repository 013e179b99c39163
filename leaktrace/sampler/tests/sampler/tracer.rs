//! The kernel's own uprobe events as a tracer of the library, by the offsets in its notes, with arguments and semaphores.

use crate::support::{Elf, library};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::{Duration, Instant};

const TRACEFS: &str = "/sys/kernel/tracing";
const GROUP: &str = "leaktrace_sampler_";

/// Mounts the file system of events where it is not.
fn mount() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if !Path::new(TRACEFS).join("uprobe_events").exists() {
            let status = Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS]).status();
            assert!(status.unwrap().success(), "tracefs can be mounted");
        }
    });
}

/// Events of both probes in a buffer of their own, gone when it is dropped.
pub struct Tracer {
    group: String,
    instance: PathBuf,
}

fn write(path: &Path, text: &str) {
    OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(text.as_bytes())).unwrap_or_else(
        |error| {
            panic!("writing {text:?} to {}: {error}", path.display());
        },
    );
}

impl Tracer {
    /// Begins to listen in every process that has the file, and in every one that will.
    pub fn attach(file: &Path) -> Self {
        mount();
        clean_up_after_the_killed();
        let elf = Elf::read(file);
        let name = file.file_stem().unwrap().to_str().unwrap();
        let group = format!("{GROUP}{}_{name}", std::process::id());
        let registers = if cfg!(target_arch = "x86_64") { ["%di", "%si", "%dx"] } else { ["%x0", "%x1", "%x2"] };
        for (name, fields) in [("free", 1), ("alloc", 3)] {
            let probe = elf.probe(name);
            let (at, semaphore) = (elf.place(probe.location).1.unwrap(), elf.place(probe.semaphore).1.unwrap());
            let fields = ["ptr", "size", "weight"].iter().zip(registers).take(fields);
            let fields: Vec<String> = fields.map(|(field, register)| format!("{field}={register}:u64")).collect();
            let line = format!("p:{group}/{name} {}:{at:#x}({semaphore:#x}) {}\n", file.display(), fields.join(" "));
            write(&Path::new(TRACEFS).join("uprobe_events"), &line);
        }
        let instance = Path::new(TRACEFS).join("instances").join(&group);
        std::fs::create_dir(&instance).unwrap();
        std::fs::write(instance.join("buffer_size_kb"), "8192").unwrap();
        let tracer = Self { group, instance };
        tracer.enable(true);
        tracer
    }

    fn enable(&self, on: bool) {
        let file = self.instance.join("events").join(&self.group).join("enable");
        std::fs::write(file, if on { "1" } else { "0" }).unwrap();
    }

    /// Events in order: true for `alloc`, and the numbers.
    pub fn events(&self) -> Vec<(bool, Vec<u64>)> {
        let text = std::fs::read_to_string(self.instance.join("trace")).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#') && line.contains(" ptr="));
        let number = |field: &str| field.split_once('=')?.1.parse().ok();
        lines.map(|line| (line.contains(": alloc:"), line.split_whitespace().filter_map(number).collect())).collect()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if self.instance.exists() {
            self.enable(false);
            // Busy for as long as somebody looks at it, as whoever searches all of the file system does.
            let until = Instant::now() + Duration::from_secs(20);
            while let Err(error) = std::fs::remove_dir(&self.instance) {
                assert!(Instant::now() < until, "{}: {error}", self.instance.display());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        for name in ["alloc", "free"] {
            write(&Path::new(TRACEFS).join("uprobe_events"), &format!("-:{}/{name}\n", self.group));
        }
    }
}

/// Takes away what a killed run of these tests has left.
fn clean_up_after_the_killed() {
    // Threads of one run must not take each other's for that of another.
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let events = std::fs::read_to_string(Path::new(TRACEFS).join("uprobe_events")).unwrap();
        let groups = events.lines().filter_map(|line| line.strip_prefix("p:")?.split('/').next());
        let groups: BTreeSet<&str> = groups.filter(|group| group.starts_with(GROUP)).collect();
        for group in groups {
            let process = group[GROUP.len()..].split('_').next().unwrap();
            if !Path::new("/proc").join(process).exists() {
                let instance = Path::new(TRACEFS).join("instances").join(group);
                drop(Tracer { group: group.to_owned(), instance });
            }
        }
    });
}

/// A library of its own, since the kernel raises semaphores in every process that has the file.
pub fn copy(name: &str) -> PathBuf {
    let copy = library().with_file_name("sampler-victims").join(name);
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    // A new file: probes that somebody has left are the old one's.
    let _ = std::fs::remove_file(&copy);
    std::fs::copy(library(), &copy).unwrap();
    copy
}
