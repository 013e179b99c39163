//! The kernel's file systems that tracing and its tests look at: mounted wherever systemd runs, absent in bare containers,
//! chroots and small CI images.

use crate::shell;
use anyhow::{Context as _, Result};
use std::path::Path;

/// Mount point, type, and whether nothing at all works without it. In mounting order.
const FILE_SYSTEMS: [(&str, &str); 3] = [("/sys", "sysfs"), ("/sys/kernel/tracing", "tracefs"), ("/sys/fs/bpf", "bpf")];

/// Mounts those that are not mounted. If the kernel lacks one, `leaktrace doctor` explains it.
pub fn mount_what_is_missing() -> Result<()> {
    for (point, kind) in FILE_SYSTEMS {
        let mounts = std::fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
        if is_mounted(&mounts, point, kind) || !Path::new(point).is_dir() {
            continue;
        }
        let mut mount = crate::root::command("mount", "mount kernel file systems")?;
        if let Err(error) = shell::run(mount.args(["-t", kind, kind, point])) {
            println!("   {kind} stays unmounted: {error:#}");
        }
    }
    Ok(())
}

/// Whether `mounts` (the text of /proc/self/mounts) has a file system of this type at this point.
fn is_mounted(mounts: &str, point: &str, kind: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(point) && fields.next() == Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::is_mounted;

    #[test]
    fn a_mount_is_recognised_by_point_and_type() {
        let mounts =
            "sysfs /sys sysfs rw 0 0\nnone /sys/kernel/tracing tracefs rw,nosuid 0 0\n/dev/vda / ext4 rw 0 0\n";
        assert!(is_mounted(mounts, "/sys/kernel/tracing", "tracefs"));
        assert!(!is_mounted(mounts, "/sys/fs/bpf", "bpf"));
        assert!(!is_mounted(mounts, "/sys", "tracefs"));
    }
}
