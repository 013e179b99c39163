//! Counters in the kernel at places in a file: plain uprobe events, without a program of ours.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where the kernel takes and shows trace events.
fn tracing() -> PathBuf {
    let known = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].map(PathBuf::from);
    let found = known.into_iter().find(|path| path.join("uprobe_events").exists());
    found.filter(|_| nix::unistd::geteuid().is_root()).unwrap_or_else(|| {
        panic!("this test needs root and tracefs (mount -t tracefs tracefs /sys/kernel/tracing): run it by `cargo xtask test`")
    })
}

/// Events at some offsets of one file, removed when dropped.
pub struct Counters {
    tracing: PathBuf,
    group: String,
    names: Vec<String>,
}

impl Counters {
    /// Counts each passage of `offsets` (by name) in `file`, in all processes.
    pub fn set(file: &Path, offsets: &BTreeMap<String, u64>) -> Self {
        let group = format!("leaktrace_{}", std::process::id());
        let mut counters = Self { tracing: tracing(), group, names: Vec::new() };
        for (name, offset) in offsets {
            counters.command(&format!("p:{}/{name} {}:{offset:#x}", counters.group, file.display()));
            counters.names.push(name.clone());
        }
        counters.enable(true);
        counters
    }

    /// Stops counting, and says how often each place was passed.
    pub fn read(&self) -> BTreeMap<String, u64> {
        self.enable(false);
        let profile = fs::read_to_string(self.tracing.join("uprobe_profile")).unwrap();
        let counted = profile.lines().filter_map(|line| {
            let mut fields = line.split_whitespace().rev();
            let (hits, name) = (fields.next()?.parse().ok()?, fields.next()?);
            Some((name.to_owned(), hits))
        });
        counted.filter(|(name, _)| self.names.contains(name)).collect()
    }

    fn command(&self, command: &str) {
        let mut file = OpenOptions::new().append(true).open(self.tracing.join("uprobe_events")).unwrap();
        file.write_all(format!("{command}\n").as_bytes()).unwrap_or_else(|error| panic!("{command}: {error}"));
    }

    fn enable(&self, on: bool) {
        let switch = self.tracing.join("events").join(&self.group).join("enable");
        fs::write(switch, if on { "1" } else { "0" }).unwrap();
    }
}

impl Drop for Counters {
    fn drop(&mut self) {
        self.enable(false);
        for name in &self.names {
            self.command(&format!("-:{}/{name}", self.group));
        }
    }
}
