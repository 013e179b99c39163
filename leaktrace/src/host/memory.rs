//! How much memory this machine has to give.

use std::fs;

/// Bytes that can be had without anybody else's being swapped out; `None` where the kernel does not tell.
pub fn available() -> Option<u64> {
    parse(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// The line `MemAvailable` of `proc_meminfo(5)`, in bytes.
fn parse(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn available_memory_is_read_as_the_kernel_writes_it() {
        let meminfo = "MemTotal:       24683520 kB\nMemFree:         5361664 kB\nMemAvailable:   21837824 kB\n";
        assert_eq!(parse(meminfo), Some(21_837_824 * 1024));
        assert_eq!(parse("MemTotal: 1 kB\n"), None);
    }
}
