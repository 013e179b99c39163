//! `--only growing` on a finished snapshot: the sites that keep growing.

use super::growth::Trend;
use super::request::Only;
use super::snapshot::{Site, Snapshot};

impl Site {
    /// Whether it keeps growing: it is judged to leak, or its outstanding bytes rise throughout or in steps.
    #[must_use]
    pub fn is_growing(&self) -> bool {
        self.leaks_by_growth() || matches!(self.trend, Some(Trend::Growing | Trend::Steps))
    }
}

impl Snapshot {
    /// Whether the growth of any site was followed.
    #[must_use]
    pub fn has_growth(&self) -> bool {
        self.sites.iter().any(|site| site.growth.is_some())
    }

    /// The snapshot of the growing sites alone. Where growth was not followed, a warning says so.
    #[must_use]
    pub fn only_growing(&self) -> Self {
        let mut growing = self.clone();
        if !self.has_growth() && !self.sites.is_empty() {
            let why = "--only growing: the growth of these sites was not followed, so that there is nothing to show";
            growing.warnings.insert(0, why.to_owned());
        }
        growing.sites.retain(Site::is_growing);
        growing.recount_processes();
        growing.options.only = Some(Only::Growing);
        growing
    }
}
