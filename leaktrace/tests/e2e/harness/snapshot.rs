//! The JSON snapshot as a reader of the documentation would parse it, independent of the program's own types, and the
//! comparison with what victims say.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;

use super::account::{Accounts, Calls};

#[derive(Debug, Deserialize)]
pub struct Snapshot {
    pub elapsed_s: f64,
    pub sequence: u64,
    pub r#final: bool,
    pub target: Target,
    pub options: serde_json::Value,
    #[serde(default)]
    pub sampled: bool,
    pub processes: Vec<Process>,
    pub frames: Vec<Frame>,
    pub sites: Vec<Site>,
    /// All of them, also those that were added after the documentation's list.
    pub stacks: Option<Stacks>,
    #[serde(deserialize_with = "counters")]
    pub losses: BTreeMap<String, u64>,
    pub warnings: Vec<String>,
    #[serde(default)]
    pub untraced: Vec<Untraced>,
    /// Absent where there are none.
    #[serde(default)]
    pub suppressions: Vec<Suppression>,
    /// Absent where there are none.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Absent where nothing was followed.
    pub timeline: Option<serde_json::Value>,
}

/// What a rule hides.
#[derive(Debug, Deserialize)]
pub struct Suppression {
    pub name: String,
    pub source: String,
    pub bytes: u64,
    pub count: u64,
    pub sites: u64,
}

#[derive(Debug, Deserialize)]
pub struct Target {
    pub mode: String,
    pub pids: Vec<u32>,
}

/// How many stacks are whole.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Stacks {
    pub recorded: u64,
    pub complete: u64,
    pub guessed: u64,
}

#[derive(Debug, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub comm: String,
    pub exe: Option<String>,
    pub exited: bool,
    pub outstanding_bytes: u64,
    pub outstanding_count: u64,
    pub peak_bytes: u64,
    pub alloc_bytes: u64,
    pub alloc_count: u64,
    pub free_bytes: u64,
    pub free_count: u64,
    pub untracked_frees: u64,
    pub thread_end_frees: u64,
    pub abandoned_calls: u64,
    pub rss_bytes: Option<u64>,
    pub heap_pages: Option<HeapPages>,
    pub leak_check: Option<LeakCheck>,
    /// Absent where there is none.
    pub lost_taken_back: Option<Tally>,
    #[serde(default)]
    pub holders: Vec<Retained>,
    /// Absent where it was not followed.
    pub growth: Option<Growth>,
}

/// What time says of a site or a process.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Growth {
    pub verdict: String,
    pub bytes_per_s: f64,
    pub ci95: [f64; 2],
    pub reason: String,
    pub lifetime_max_s: Option<f64>,
}

/// How the resident pages of a process' heap are used.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct HeapPages {
    pub resident_bytes: u64,
    pub held_bytes: u64,
    pub empty_bytes: u64,
    pub occupancy: f64,
    pub occupied_bytes: u64,
    /// Absent where none are.
    #[serde(default)]
    pub blocks_missing: bool,
    #[serde(default)]
    pub malloc_trim: bool,
    pub finding: Option<String>,
}

/// How the blocks of a process were judged.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct LeakCheck {
    pub mode: String,
    pub pause_ms: f64,
    pub scanned_bytes: u64,
    pub passes: u32,
    pub rescanned_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Site {
    pub pid: u32,
    /// Its name among all runs of the program.
    pub id: String,
    /// "unsure" where the mark of that name says more than the state.
    pub stack_state: Option<String>,
    /// Absent where it is false.
    #[serde(default)]
    unsure: bool,
    /// Index into `processes`: a pid has several lives where it calls exec.
    pub process: usize,
    pub outstanding_bytes: u64,
    pub outstanding_count: u64,
    pub alloc_bytes: u64,
    pub alloc_count: u64,
    pub free_bytes: u64,
    pub free_count: u64,
    pub oldest_s: Option<f64>,
    pub youngest_s: Option<f64>,
    /// Absent where it is 0.
    #[serde(default)]
    pub temporary_count: u64,
    pub trend: Option<String>,
    pub growth: Option<Growth>,
    #[serde(rename = "stack")]
    places: Vec<usize>,
    /// The frames at these places of the table.
    #[serde(skip)]
    pub stack: Vec<Frame>,
    /// Bytes and numbers of blocks by kind; only after a leak check.
    pub verdict: Option<BTreeMap<String, Tally>>,
    /// What the program itself calls no leak; absent where that is nothing.
    pub ignored: Option<Tally>,
    /// The name of the rule that hides blocks of it; absent where none does.
    pub suppressed: Option<String>,
    #[serde(default)]
    pub suppressed_bytes: u64,
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// Absent where the pages of the process' heap were not looked at.
    pub pinned_bytes: Option<u64>,
    /// Only after a leak check.
    pub holders: Option<Vec<Holder>>,
    /// Only with `--show-allocs`.
    pub blocks: Option<Vec<Block>>,
}

/// How blocks of a site are held.
#[derive(Debug, Deserialize)]
pub struct Holder {
    pub root: String,
    pub path: Vec<String>,
    pub blocks: u64,
}

/// What a variable alone holds.
#[derive(Debug, Deserialize)]
pub struct Retained {
    pub name: String,
    pub blocks: u64,
    pub bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Tally {
    pub bytes: u64,
    pub count: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Frame {
    pub function: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub module: Option<String>,
    pub inlined: bool,
}

#[derive(Debug, Deserialize)]
pub struct Block {
    #[serde(deserialize_with = "hexadecimal")]
    pub address: u64,
    pub size: u64,
    pub age_s: f64,
    /// Only after a leak check.
    pub verdict: Option<String>,
    #[serde(default, rename = "type")]
    pub type_name: Option<String>,
}

/// A process that was seen and not traced, or in part.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Untraced {
    pub pid: u32,
    pub comm: String,
    pub reason: String,
    #[serde(default)]
    pub partly: bool,
}

/// Counters by name; one that is broken down by reason counts as the sum over its reasons.
fn counters<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Counter {
        Whole(u64),
        ByReason(BTreeMap<String, u64>),
    }
    let whole = |counter| match counter {
        Counter::Whole(n) => n,
        Counter::ByReason(reasons) => reasons.values().sum(),
    };
    let counters = BTreeMap::<String, Counter>::deserialize(deserializer)?;
    Ok(counters.into_iter().map(|(name, counter)| (name, whole(counter))).collect())
}

fn hexadecimal<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    let digits = text.strip_prefix("0x").ok_or_else(|| serde::de::Error::custom(format!("{text} lacks 0x")))?;
    u64::from_str_radix(digits, 16).map_err(serde::de::Error::custom)
}

impl Frame {
    /// Whether this is the function of that name, whatever its namespaces and parameters.
    pub fn is(&self, name: &str) -> bool {
        self.function.as_deref().is_some_and(|function| {
            let function = function.split('(').next().unwrap_or(function);
            function.rsplit("::").next() == Some(name)
        })
    }
}

impl Site {
    /// Whether the function of that name stands in the stack.
    pub fn passes(&self, name: &str) -> bool {
        self.stack.iter().any(|frame| frame.is(name))
    }

    /// The stack as one reads it, innermost first.
    pub fn path(&self) -> String {
        let names: Vec<_> = self.stack.iter().map(|frame| frame.function.as_deref().unwrap_or("?")).collect();
        names.join(" < ")
    }
}

/// Sums over sites.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    pub outstanding_bytes: u64,
    pub outstanding_count: u64,
    pub alloc_bytes: u64,
    pub alloc_count: u64,
    pub free_bytes: u64,
    pub free_count: u64,
}

impl Sums {
    fn add(&mut self, site: &Site) {
        self.outstanding_bytes += site.outstanding_bytes;
        self.outstanding_count += site.outstanding_count;
        self.alloc_bytes += site.alloc_bytes;
        self.alloc_count += site.alloc_count;
        self.free_bytes += site.free_bytes;
        self.free_count += site.free_count;
    }

    /// Outstanding bytes and count.
    pub fn outstanding(&self) -> (u64, u64) {
        (self.outstanding_bytes, self.outstanding_count)
    }
}

impl Snapshot {
    pub fn parse(json: &[u8]) -> Self {
        let mut snapshot: Self = serde_json::from_slice(json).unwrap_or_else(|e| {
            panic!("the snapshot does not have the documented form: {e}\n{:.2000}", String::from_utf8_lossy(json))
        });
        for site in &mut snapshot.sites {
            if site.unsure {
                assert_eq!(site.stack_state.as_deref(), Some("gap"));
                site.stack_state = Some("unsure".to_owned());
            }
            site.stack = site.places.iter().map(|&place| snapshot.frames[place].clone()).collect();
        }
        snapshot
    }

    /// The process with that pid, which has had one life only.
    pub fn process(&self, pid: u32) -> &Process {
        let mut found = self.processes.iter().filter(|process| process.pid == pid);
        let process = found.next().unwrap_or_else(|| panic!("process {pid} is not in the snapshot"));
        assert!(found.next().is_none(), "process {pid} is in the snapshot twice");
        process
    }

    /// The process's sites whose stacks pass through that function.
    pub fn sites_through(&self, pid: u32, function: &str) -> Vec<&Site> {
        self.sites.iter().filter(|site| site.pid == pid && site.passes(function)).collect()
    }

    /// The sum over [`Self::sites_through`].
    pub fn through(&self, pid: u32, function: &str) -> Sums {
        let mut sums = Sums::default();
        self.sites_through(pid, function).into_iter().for_each(|site| sums.add(site));
        sums
    }

    /// The sum over all sites of a process.
    pub fn all(&self, pid: u32) -> Sums {
        let mut sums = Sums::default();
        self.sites.iter().filter(|site| site.pid == pid).for_each(|site| sums.add(site));
        sums
    }

    /// One counter of what was lost.
    pub fn loss(&self, name: &str) -> u64 {
        *self.losses.get(name).unwrap_or_else(|| panic!("losses has no {name}"))
    }

    /// Nothing that could make a number untrue happened.
    pub fn assert_lossless(&self) {
        self.assert_lossless_but(&[]);
    }

    /// The same, where the test is about some of the losses.
    ///
    /// `LEAKTRACE_TEST_EARLY_STACKS` says that this machine is so slow that unwind tables come after a trace's first
    /// allocations: that stacks are cut short is then expected, as long as it is counted.
    pub fn assert_lossless_but(&self, expected: &[&str]) {
        let late = std::env::var_os("LEAKTRACE_TEST_EARLY_STACKS").is_some();
        let is_late = |name: &str| late && ["unwind_failed", "unwind_failures"].contains(&name);
        let is_expected = |name: &str| expected.contains(&name) || is_late(name);
        let lost: Vec<_> = self.losses.iter().filter(|(name, n)| **n > 0 && !is_expected(name)).collect();
        assert!(lost.is_empty(), "losses: {lost:?}");
    }

    /// Every sum in the snapshot equals the sum of its parts. Holds for every unfiltered report, losses or not.
    pub fn assert_consistent(&self) {
        for site in &self.sites {
            let path = site.path();
            assert_eq!(site.alloc_bytes - site.free_bytes, site.outstanding_bytes, "bytes of {path}");
            assert_eq!(site.alloc_count - site.free_count, site.outstanding_count, "count of {path}");
            if let Some(blocks) = &site.blocks {
                assert_eq!(blocks.len() as u64, site.outstanding_count, "number of blocks of {path}");
                assert_eq!(blocks.iter().map(|b| b.size).sum::<u64>(), site.outstanding_bytes, "blocks of {path}");
            }
        }
        for (index, process) in self.processes.iter().enumerate() {
            let pid = process.pid;
            let of_this_life = || self.sites.iter().filter(|site| site.process == index);
            let mut sums = Sums::default();
            for site in of_this_life() {
                assert_eq!(site.pid, pid, "site and process");
                sums.add(site);
            }
            let whole = Sums {
                outstanding_bytes: process.outstanding_bytes,
                outstanding_count: process.outstanding_count,
                alloc_bytes: process.alloc_bytes,
                alloc_count: process.alloc_count,
                free_bytes: process.free_bytes,
                free_count: process.free_count,
            };
            assert_eq!(sums, whole, "sites (left) and process (right) of {pid}");
            assert!(process.peak_bytes >= process.outstanding_bytes, "peak of {pid}");
            let mut seen = HashSet::new();
            for block in of_this_life().filter_map(|site| site.blocks.as_ref()).flatten() {
                assert!(seen.insert(block.address), "block {:#x} of {pid} is outstanding twice", block.address);
            }
        }
    }

    /// What the tracer found equals what the victims said: per function and, where they vouch for it, in all.
    pub fn assert_equals(&self, accounts: &Accounts) {
        let mut wrong = Vec::new();
        for account in &accounts.sites {
            let found = self.through(account.pid, &account.site);
            let said = (account.bytes, account.count);
            if found.outstanding() != said {
                wrong.push(format!("{}: outstanding {:?}, is {said:?}", account.site, found.outstanding()));
            }
            if let Some(calls) = account.calls
                && calls != Calls::from(&found)
            {
                wrong.push(format!("{}: {:?}, is {calls:?}", account.site, Calls::from(&found)));
            }
        }
        for (pid, calls) in &accounts.totals {
            let found = Calls::from(&self.all(*pid));
            if found != *calls {
                wrong.push(format!("process {pid}: {found:?}, is {calls:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}\nsites:\n{}", wrong.join("\n"), self.digest());
    }

    /// The sites, a line each, for the messages of failing tests.
    pub fn digest(&self) -> String {
        let mut lines: Vec<_> = self.sites.iter().take(60).map(digest_line).collect();
        if self.sites.len() > lines.len() {
            lines.push(format!("... {} sites in all", self.sites.len()));
        }
        lines.push(format!("losses: {:?}", self.losses));
        lines.extend(self.warnings.iter().chain(&self.notes).map(|said| format!("said: {said}")));
        lines.join("\n")
    }
}

fn digest_line(site: &Site) -> String {
    format!(
        "{} {} B in {} ({} B in {} allocated): {:.300}",
        site.pid,
        site.outstanding_bytes,
        site.outstanding_count,
        site.alloc_bytes,
        site.alloc_count,
        site.path()
    )
}

impl From<&Sums> for Calls {
    fn from(sums: &Sums) -> Self {
        Self {
            allocs: sums.alloc_count,
            alloc_bytes: sums.alloc_bytes,
            frees: sums.free_count,
            free_bytes: sums.free_bytes,
        }
    }
}
