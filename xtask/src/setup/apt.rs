//! Debian's and Ubuntu's packages: what is on offer, and installing without questions and without starting a service.

use crate::shell;
use anyhow::Result;
use std::process::Command;

/// Installs the packages. The services they may bring are not started now: `policy-rc.d` refuses while we install
/// (<https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt>).
const INSTALL: &str = r#"
set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l
apt-get -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0 -qq install -y --no-install-recommends "$@" </dev/null >/dev/null
"#;

/// Installs the packages, with fresh package lists where the present ones do not offer them all or are out of date.
/// `why` completes "root is needed to …".
pub fn install(packages: &[&str], why: &str) -> Result<()> {
    println!("   installing with apt-get: {}", packages.join(" "));
    let mut fresh = false;
    if !packages.iter().all(|package| offers(package)) {
        update(why)?;
        fresh = true;
    }
    let attempt =
        || shell::run_unannounced(crate::root::command("sh", why)?.args(["-c", INSTALL, "sh"]).args(packages));
    match attempt() {
        // Out-of-date lists name files that the mirror no longer has.
        Err(_) if !fresh => {
            update(why)?;
            attempt()
        }
        done => done,
    }
}

/// Whether the package lists, as they are, offer this package.
pub fn offers(package: &str) -> bool {
    let mut policy = Command::new("apt-cache");
    policy.args(["policy", package]).env("LC_ALL", "C");
    shell::output(&mut policy).is_ok_and(|text| {
        text.lines().filter_map(|line| line.trim().strip_prefix("Candidate: ")).any(|version| version != "(none)")
    })
}

/// Fetches the package lists.
pub fn update(why: &str) -> Result<()> {
    shell::run(crate::root::command("apt-get", why)?.args(["-o", "DPkg::Lock::Timeout=600", "-qq", "update"]))
}

/// Services that came with packages we installed for their programs shall not run from the next boot on either.
pub fn keep_from_starting_at_boot(services: &[&str]) -> Result<()> {
    if services.is_empty() || !std::path::Path::new("/run/systemd/system").is_dir() {
        return Ok(());
    }
    shell::run(crate::root::command("systemctl", "leave services off")?.arg("disable").args(services))
}
