//! Processes that their control group has frozen: that of version 1 is an obstacle that is named, that of version 2 is none.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use leaktrace::process::stop::{Limits, StopError, Stopped};

use super::support::{PATIENT, Victim};

/// A control group of the test's own.
pub struct Group(PathBuf);

impl Group {
    /// In the hierarchy of this type with this option; `None` where this machine has none, or permits no groups.
    pub fn new(file_system: &str, option: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let is_it =
                kind.starts_with(&format!("{file_system} ")) && kind.split([' ', ',']).any(|word| word == option);
            is_it.then(|| mount.split(' ').nth(4).unwrap())
        })?;
        let group = Path::new(mount).join(format!("leaktrace-test-{option}-{}", std::process::id()));
        fs::create_dir(&group).ok()?;
        Some(Self(group))
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap();
    }

    /// Takes a process out of it.
    pub fn leave(&self, pid: &str) {
        fs::write(self.0.parent().unwrap().join("cgroup.procs"), pid).unwrap();
    }

    /// Waits until `file` contains `text`.
    fn await_text(&self, file: &str, text: &str) {
        while !fs::read_to_string(self.0.join(file)).unwrap().contains(text) {
            std::thread::yield_now();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What was in it has ended.
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_process_that_version_1_froze_is_refused_and_its_group_named() {
    let Some(group) = Group::new("cgroup", "freezer") else { return };
    let (mut victim, _) = Victim::puppet(9);
    group.write("cgroup.procs", &victim.pid().to_string());
    group.write("freezer.state", "FROZEN");
    group.await_text("freezer.state", "FROZEN");
    let limits = Limits { stop_within: Duration::from_millis(50), ..PATIENT };
    let refused = Stopped::stop(victim.pid(), limits);
    group.write("freezer.state", "THAWED");
    let error = refused.unwrap_err();
    assert!(matches!(&error, StopError::Frozen { group: named, .. } if *named == group.0), "{error}");
    victim.assert_alive();
    drop(Stopped::stop(victim.pid(), PATIENT).unwrap());
    drop(victim);
}

#[test]
fn a_process_that_version_2_froze_is_read_and_stays_frozen() {
    let Some(group) = Group::new("cgroup2", "rw") else { return };
    let (mut victim, tids) = Victim::puppet(9);
    group.write("cgroup.procs", &victim.pid().to_string());
    group.write("cgroup.freeze", "1");
    group.await_text("cgroup.events", "frozen 1");
    let stopped = Stopped::stop(victim.pid(), PATIENT);
    let threads = stopped.map(|stopped| stopped.threads().len());
    group.await_text("cgroup.events", "frozen 1");
    group.write("cgroup.freeze", "0");
    assert_eq!(threads.unwrap(), tids.len());
    victim.assert_alive();
    drop(victim);
}
