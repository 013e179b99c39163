//! `--comm`, `--uid` and `--cgroup`: processes that run already, that start later, and that become what is asked for.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::tracer::path_str;
use crate::harness::{Accounts, Snapshot, Tracer, Victim, build, locks};

/// The user that owns nothing, by its number on Debian and elsewhere.
const NOBODY: u32 = 65534;

fn as_nobody(command: &mut Command) {
    command.uid(NOBODY);
}

/// A copy of a victim under a name that nothing else on the machine has.
pub struct Named {
    _directory: tempfile::TempDir,
    pub path: PathBuf,
}

impl Named {
    pub fn new(source: &str, name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = directory.path().join(name);
        build::copied(&build::victim(source), &path);
        Self { _directory: directory, path }
    }

    pub fn start(&self, arguments: &[&str]) -> Victim {
        self.start_changed(arguments, |_| ())
    }

    fn start_changed(&self, arguments: &[&str], change: impl Fn(&mut Command)) -> Victim {
        let mut command = Command::new(&self.path);
        command.arg("wait").args(arguments);
        change(&mut command);
        let victim = Victim::spawn(path_str(&self.path), &mut command);
        victim.wait_until_ready();
        victim
    }
}

/// Lets the victims work under a trace with these options and returns what it saw and what they said.
fn trace(options: &[&str], early: &mut [Victim], late: impl FnOnce() -> Vec<Victim>) -> (Snapshot, Vec<Accounts>) {
    let tracer = Tracer::start(options);
    let mut late = late();
    let accounts = early.iter_mut().chain(&mut late).map(Victim::work).collect();
    let snapshot = tracer.stop().exact();
    assert_eq!(snapshot.target.mode, "filter");
    late.into_iter().for_each(Victim::finish);
    (snapshot, accounts)
}

/// Nothing was recorded of the process that said so.
fn assert_absent(snapshot: &Snapshot, accounts: &Accounts) {
    let pid = accounts.sites[0].pid;
    assert!(snapshot.processes.iter().all(|process| process.pid != pid), "{}", snapshot.digest());
}

#[test]
fn processes_of_a_name_are_chosen_before_and_after_they_start() {
    let _machine = locks::whole_machine();
    // Its like is not in another run of the tests. The kernel keeps 15 bytes of a name.
    let name = format!("lt-{}-chosen-by-name", std::process::id());
    let (chosen, other) = (Named::new("family.c", &name), Named::new("family.c", "lt-other"));
    let mut early = [chosen.start(&[]), other.start(&[])];
    let late = || vec![chosen.start(&[]), other.start(&[])];
    let (snapshot, accounts) = trace(&["--comm", &name], &mut early, late);
    for (index, accounts) in accounts.iter().enumerate() {
        if index % 2 == 0 { snapshot.assert_equals(accounts) } else { assert_absent(&snapshot, accounts) }
    }
    assert_eq!(snapshot.processes.len(), 2);
}

#[test]
fn processes_of_a_user_are_chosen_before_and_after_they_start() {
    let _machine = locks::whole_machine();
    let victim = Named::new("family.c", "lt-user");
    let nobodys = || victim.start_changed(&[], as_nobody);
    let mut early = [nobodys(), victim.start(&[])];
    let late = || vec![nobodys(), victim.start(&[])];
    let (snapshot, accounts) = trace(&["--uid", "nobody"], &mut early, late);
    for (index, accounts) in accounts.iter().enumerate() {
        if index % 2 == 0 { snapshot.assert_equals(accounts) } else { assert_absent(&snapshot, accounts) }
    }
}

#[test]
fn a_process_must_meet_every_kind_of_filter() {
    let _machine = locks::whole_machine();
    let victim = Named::new("family.c", "lt-both");
    let other = Named::new("family.c", "lt-not-both");
    let mut early = [
        victim.start_changed(&[], as_nobody),
        victim.start(&[]),
        other.start_changed(&[], as_nobody),
        other.start(&[]),
    ];
    let options = ["--comm", "lt-both", "--comm", "lt-nobody-is-called-so", "--uid", &NOBODY.to_string()];
    let (snapshot, accounts) = trace(&options, &mut early, Vec::new);
    snapshot.assert_equals(&accounts[0]);
    accounts[1..].iter().for_each(|accounts| assert_absent(&snapshot, accounts));
}

/// What a process allocates counts from when it becomes what is asked for.
fn assert_counts_since(snapshot: &Snapshot, accounts: &Accounts) {
    let (before, after) = (accounts.site("leak_before"), accounts.site("leak_after"));
    assert_eq!(snapshot.through(before.pid, "leak_before").alloc_count, 0);
    assert_eq!(snapshot.through(after.pid, "leak_after").outstanding(), (after.bytes, after.count));
}

#[test]
fn a_process_that_takes_the_name_or_the_rights_later_is_traced_from_then_on() {
    let _machine = locks::whole_machine();
    let victim = Named::new("changing.c", "lt-changing");
    let (snapshot, accounts) = trace(&["--comm", "lt-changed"], &mut [victim.start(&["name", "lt-changed"])], Vec::new);
    assert_counts_since(&snapshot, &accounts[0]);
    let nobody = NOBODY.to_string();
    let (snapshot, accounts) = trace(&["--uid", &nobody], &mut [victim.start(&["user", &nobody])], Vec::new);
    assert_counts_since(&snapshot, &accounts[0]);
}

/// A control group of the test's own, with one inside it.
struct Group {
    path: PathBuf,
    /// Where the test has mounted the groups itself: containers show them read-only, or not at all.
    _mounted: Option<Mount>,
}

/// A place where control groups are mounted.
struct Mount(tempfile::TempDir);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

impl Group {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let root = mounts
            .lines()
            .filter_map(|line| line.split(' ').collect::<Vec<_>>().get(1..3).map(|it| (it[0], it[1])))
            .find_map(|(place, kind)| (kind == "cgroup2").then_some(place));
        root.and_then(|root| Self::below(Path::new(root), None).ok()).unwrap_or_else(|| {
            let mount = Mount(tempfile::tempdir().unwrap());
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("none"), mount.0.path(), Some("cgroup2"), flags, None::<&str>)
                .expect("the kernel has control groups of version 2");
            let root = mount.0.path().to_owned();
            Self::below(&root, Some(mount)).expect("root may make control groups")
        })
    }

    fn below(root: &Path, mounted: Option<Mount>) -> std::io::Result<Self> {
        let path = root.join(format!("leaktrace-test-{}", std::process::id()));
        fs::create_dir_all(path.join("inner"))?;
        Ok(Self { path, _mounted: mounted })
    }

    fn procs(&self, inner: &str) -> PathBuf {
        self.path.join(inner).join("cgroup.procs")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Both fail while a process is inside, which the test has then said more about.
        let _ = fs::remove_dir(self.path.join("inner"));
        let _ = fs::remove_dir(&self.path);
    }
}

#[test]
fn processes_of_a_control_group_and_of_groups_in_it_are_chosen() {
    let _machine = locks::whole_machine();
    let group = Group::new();
    let victim = Named::new("family.c", "lt-group");
    let changing = Named::new("changing.c", "lt-group-later");
    let enter = |pid: u32, inner: &str| fs::write(group.procs(inner), pid.to_string()).unwrap();
    let mut early = [
        victim.start(&[]),
        victim.start(&[]),
        victim.start(&[]),
        changing.start(&["group", path_str(&group.procs(""))]),
    ];
    enter(early[0].pid(), "");
    enter(early[1].pid(), "inner");
    let (snapshot, accounts) = trace(&["--cgroup", path_str(&group.path)], &mut early, Vec::new);
    snapshot.assert_equals(&accounts[0]);
    snapshot.assert_equals(&accounts[1]);
    assert_absent(&snapshot, &accounts[2]);
    assert_counts_since(&snapshot, &accounts[3]);
    early.into_iter().for_each(Victim::finish);
    // Below the mount, as /proc/PID/cgroup shows it.
    let name = group.path.file_name().unwrap().to_str().unwrap();
    let tracer = Tracer::start(&["--cgroup", &format!("/{name}/inner")]);
    assert!(tracer.stop().exact().processes.is_empty());
}

#[test]
fn a_control_group_that_is_not_there_is_refused() {
    Tracer::start_unready(&["--cgroup", "/no/such/group"]).wait().assert_refused(1, &["--cgroup /no/such/group"]);
    Tracer::start_unready(&["--cgroup", "/tmp"]).wait().assert_refused(1, &["--cgroup /tmp", "version 2"]);
}
