//! What the chores need from the machine beside Rust: programs, and which package brings each.

use super::Tier;

/// A program that must be on the machine.
pub struct Need {
    /// Its name, by which it is looked for on PATH, or the path of a file where the tests want the distribution's.
    pub program: &'static str,
    /// From which tier on it is needed.
    pub tier: Tier,
    /// Debian's and Ubuntu's packages.
    pub apt: &'static [&'static str],
    /// Fedora's packages.
    pub dnf: &'static [&'static str],
    /// Arch's packages.
    pub pacman: &'static [&'static str],
    /// The service that comes with the packages, which we do not want to run.
    pub service: Option<&'static str>,
}

const fn need(program: &'static str, tier: Tier, packages: [&'static [&'static str]; 3]) -> Need {
    let [apt, dnf, pacman] = packages;
    Need { program, tier, apt, dnf, pacman, service: None }
}

/// Everything, in the order in which it is reported.
pub const ALL: &[Need] = &[
    need("cc", Tier::Build, [&["gcc", "libc6-dev"], &["gcc", "glibc-devel"], &["gcc"]]),
    need("c++", Tier::Test, [&["g++"], &["gcc-c++"], &["gcc"]]),
    // Builds the allocator of one of the victims.
    need("make", Tier::Test, [&["make"], &["make"], &["make"]]),
    // Programs of another C library, static and dynamic, for the tests.
    need("musl-gcc", Tier::Test, [&["musl-tools"], &["musl-gcc"], &["musl"]]),
    // Allocators to link victims with, their static libraries included.
    need("/usr/include/jemalloc/jemalloc.h", Tier::Test, [&["libjemalloc-dev"], &["jemalloc-devel"], &["jemalloc"]]),
    need(
        "/usr/include/gperftools/tcmalloc.h",
        Tier::Test,
        [&["libgoogle-perftools-dev"], &["gperftools-devel"], &["gperftools"]],
    ),
    need("/usr/include/mimalloc.h", Tier::Test, [&["libmimalloc-dev"], &["mimalloc-devel"], &["mimalloc"]]),
    // Its packages have the header by which programs make places for tracers.
    need(
        "dtrace",
        Tier::Test,
        [&["systemtap-sdt-dev"], &["systemtap-sdt-devel", "systemtap-sdt-dtrace"], &["systemtap"]],
    ),
    need("/usr/bin/python3", Tier::Test, [&["python3"], &["python3"], &["python"]]),
    need("sqlite3", Tier::Test, [&["sqlite3"], &["sqlite"], &["sqlite"]]),
    // Programs of many kinds, whose stacks are compared with those of other unwinders.
    need("gdb", Tier::Test, [&["gdb"], &["gdb"], &["gdb"]]),
    need("git", Tier::Test, [&["git"], &["git"], &["git"]]),
    need("node", Tier::Test, [&["nodejs"], &["nodejs"], &["nodejs"]]),
    need("perl", Tier::Test, [&["perl-base"], &["perl-interpreter"], &["perl"]]),
    // Judges the same programs as the leak check.
    need("valgrind", Tier::Test, [&["valgrind", "libc6-dbg"], &["valgrind"], &["valgrind"]]),
    // Says where the kernel's structures have their fields, for the tests.
    need("pahole", Tier::Test, [&["dwarves"], &["dwarves"], &["pahole"]]),
    need("qemu-system-x86_64", Tier::Machines, [&["qemu-system-x86"], &["qemu-system-x86"], &["qemu-system-x86"]]),
    // The keys by which apt checks Debian's kernels, on other distributions too; and what unpacks them.
    need(
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        Tier::Machines,
        [&["debian-archive-keyring"], &["debian-keyring"], &["debian-archive-keyring"]],
    ),
    Need { service: Some("nginx"), ..need("nginx", Tier::Test, [&["nginx-light"], &["nginx"], &["nginx"]]) },
    Need {
        service: Some("redis-server"),
        ..need("redis-server", Tier::Test, [&["redis-server"], &["redis"], &["redis"]])
    },
];

impl Need {
    /// Whether the machine has it.
    pub fn is_met(&self) -> bool {
        crate::shell::find(self.program).is_some()
    }
}
