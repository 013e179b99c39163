//! What to do next, by rules.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::site_id::SiteId;

/// One piece of advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recommendation {
    /// Which rule it is by: a name that stays.
    pub rule: Cow<'static, str>,
    /// 1 is for what is surely wrong, 2 for what probably is, 3 for what could be better or better known.
    pub priority: u8,
    /// What to do, and why: a sentence.
    pub message: String,
    /// The site that it is about.
    pub site: Option<SiteId>,
}
