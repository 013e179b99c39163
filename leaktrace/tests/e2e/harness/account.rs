//! What a victim says of itself, parsed.

use std::collections::BTreeMap;

use serde::Deserialize;

/// One function's blocks, as the victim counted them. `calls` is absent where the C library sizes its inner blocks.
#[derive(Debug, Clone, Deserialize)]
pub struct SiteAccount {
    pub site: String,
    pub pid: u32,
    pub bytes: u64,
    pub count: u64,
    #[serde(flatten)]
    pub calls: Option<Calls>,
}

/// Everything that was allocated and freed, outstanding or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Calls {
    pub allocs: u64,
    pub alloc_bytes: u64,
    pub frees: u64,
    pub free_bytes: u64,
}

/// All that one victim (and its children) printed.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    pub sites: Vec<SiteAccount>,
    /// By pid, from victims all of whose allocations are accounted for.
    pub totals: BTreeMap<u32, Calls>,
    pub facts: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Total {
    pid: u32,
    #[serde(flatten)]
    calls: Calls,
}

#[derive(Deserialize)]
struct Fact {
    fact: String,
    value: u64,
}

impl Accounts {
    /// Picks the accounting lines out of a text that may hold others, such as a report.
    pub fn parse(text: &str) -> Self {
        let mut accounts = Self::default();
        for line in text.lines() {
            if line.starts_with("{\"site\"") {
                accounts.sites.push(serde_json::from_str(line).expect(line));
            } else if line.starts_with("{\"total\"") {
                let total: Total = serde_json::from_str(line).expect(line);
                accounts.totals.insert(total.pid, total.calls);
            } else if line.starts_with("{\"fact\"") {
                let fact: Fact = serde_json::from_str(line).expect(line);
                accounts.facts.insert(fact.fact, fact.value);
            }
        }
        assert!(!accounts.sites.is_empty() || !accounts.totals.is_empty(), "the victim gave no account:\n{text}");
        accounts
    }

    /// The one site of that name.
    pub fn site(&self, name: &str) -> &SiteAccount {
        let mut found = self.sites.iter().filter(|site| site.site == name);
        let site = found.next().unwrap_or_else(|| panic!("the victim has no site {name}"));
        assert!(found.next().is_none(), "several processes have a site {name}");
        site
    }

    /// A fact that the victim stated.
    pub fn fact(&self, name: &str) -> u64 {
        *self.facts.get(name).unwrap_or_else(|| panic!("the victim did not state {name}"))
    }

    /// Outstanding bytes and count over all sites of all processes.
    pub fn outstanding(&self) -> (u64, u64) {
        self.sites.iter().fold((0, 0), |(bytes, count), site| (bytes + site.bytes, count + site.count))
    }
}
