//! Where probes are, as the tracers say it, and whether any are there now.
//!
//! In: what leaktrace and the floor print. Out: sites to compare, and whether any probe is in the program's memory now: a
//! probe is a breakpoint there, whichever tracer has set it.

use anyhow::{Context as _, Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// The places in a process where probes go.
#[derive(Debug, Default)]
pub struct Sites {
    places: Vec<(u64, [u8; 4])>,
}

/// The lines that name sites, `FILE: NAMES at +OFFSET`, without what else is said in them, in order.
pub fn named(lines: &[String]) -> Vec<String> {
    let site = |line: &String| {
        let line = line.trim();
        let line = line.strip_prefix("leaktrace: ").unwrap_or(line);
        let (names, rest) = line.split_once(" at +")?;
        let offset: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some(format!("{names} at +{offset}"))
    };
    let mut sites: Vec<String> = lines.iter().filter_map(site).collect();
    sites.sort();
    sites
}

impl Sites {
    /// From the lines of the floor, which end in `(ADDRESS=BYTES)`.
    pub fn parse(lines: &[String]) -> Result<Self> {
        let places =
            lines.iter().filter_map(|line| line.trim().strip_suffix(')')?.rsplit_once('(')).map(|(_, place)| {
                let (address, bytes) = place.split_once('=')?;
                let bytes = u32::from_str_radix(bytes, 16).ok()?.to_be_bytes();
                Some((u64::from_str_radix(address.strip_prefix("0x")?, 16).ok()?, bytes))
            });
        let places: Vec<_> = places.collect::<Option<_>>().context("the floor does not say where its sites are")?;
        ensure!(!places.is_empty(), "the floor names no site");
        Ok(Self { places })
    }

    /// Whether the process has no probe of any tracer.
    pub fn are_untouched(&self, pid: u32) -> Result<bool> {
        let memory = File::open(format!("/proc/{pid}/mem")).context("the program's memory")?;
        for (address, bytes) in &self.places {
            let mut there = [0; 4];
            memory.read_exact_at(&mut there, *address).context("the program's memory")?;
            if there != *bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::{Sites, named};

    const FLOOR: &str = "/usr/lib/libc.so.6: malloc = __libc_malloc at +0 (0x7f0012345678=53488b1d)\n";

    #[test]
    fn the_same_site_is_recognized_in_the_words_of_both() {
        let leaktrace =
            "leaktrace: /usr/lib/libc.so.6: malloc = __libc_malloc at +0, single-stepped because of its bytes\n";
        let (floor, leaktrace) = (named(&[FLOOR.to_owned()]), named(&[leaktrace.to_owned()]));
        assert_eq!(floor, ["/usr/lib/libc.so.6: malloc = __libc_malloc at +0"]);
        assert_eq!(floor, leaktrace);
        assert!(named(&["leaktrace: tracing process 1".to_owned()]).is_empty());
    }

    #[test]
    fn a_changed_byte_is_seen_in_memory() {
        static CODE: [u8; 4] = [0x53, 0x48, 0x8b, 0x1d];
        let line = |bytes: &str| format!("libc.so: malloc at +0 ({:#x}={bytes})\n", &raw const CODE as u64);
        let untouched = |bytes: &str| Sites::parse(&[line(bytes)]).unwrap().are_untouched(std::process::id()).unwrap();
        assert!(untouched("53488b1d"));
        assert!(!untouched("cc488b1d"));
    }

    #[test]
    fn a_floor_that_names_no_place_is_refused() {
        assert!(Sites::parse(&["ready\n".to_owned()]).is_err());
        assert!(Sites::parse(&["libc.so: malloc at +0 (somewhere)\n".to_owned()]).is_err());
    }
}
