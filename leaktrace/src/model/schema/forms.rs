//! The fields of a snapshot file, in this order.
//!
//! Units are in the names: `_bytes`, `_count`; durations and ages are seconds. Fields may be added within a schema, so reading
//! ignores what it does not know and fills in what an older version did not write. `S` is what a site's stack is: its frames in
//! `leaktrace/1`, places in `frames` in `leaktrace/2`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::growth::{Growth, Trend};
use crate::model::histogram::Histogram;
use crate::model::holders::Holder;
use crate::model::losses::{Losses, Stacks};
use crate::model::net_flow::Bursts;
use crate::model::notation::{optional_seconds, seconds};
use crate::model::recommendation::Recommendation;
use crate::model::reproduction::Reproduction;
use crate::model::request::{Options, Target};
use crate::model::site_id::SiteId;
use crate::model::snapshot::{Block, Process};
use crate::model::stack_state::StackState;
use crate::model::suppression::Kinds;
use crate::model::timeline::Timeline;
use crate::model::types::{Frame, Pid};
use crate::model::untraced::Untraced;
use crate::model::verdict::{Tally, Verdict};

/// A stack of `leaktrace/1`, innermost first.
pub type Frames<'a> = Cow<'a, [Arc<Frame>]>;
/// A stack of `leaktrace/2`, innermost first: places in the table of frames, from 0.
pub type Places = Vec<u32>;

/// A whole file.
#[derive(Serialize, Deserialize)]
pub struct Document<'a, S> {
    pub schema: Cow<'a, str>,
    #[serde(default)]
    pub leaktrace_version: Cow<'a, str>,
    pub started: Timestamp,
    #[serde(rename = "elapsed_s", with = "seconds")]
    pub elapsed: Duration,
    #[serde(default)]
    pub sequence: u64,
    #[serde(default, rename = "final")]
    pub is_final: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub sampled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outstanding_bytes_ci95: Option<[u64; 2]>,
    pub target: Cow<'a, Target>,
    #[serde(default)]
    pub options: Cow<'a, Options>,
    /// Absent in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reproduction: Option<Cow<'a, Reproduction>>,
    /// Absent where every call was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bursts: Option<Bursts>,
    #[serde(default)]
    pub processes: Cow<'a, [Process]>,
    /// Only in `leaktrace/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<Vec<Cow<'a, Frame>>>,
    #[serde(default = "Vec::new", bound(deserialize = "S: Deserialize<'de> + Default"))]
    pub sites: Vec<SiteForm<'a, S>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sites_left_out: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stacks: Option<Stacks>,
    /// Absent where it was not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Cow<'a, Timeline>>,
    /// The rules that hide something, with what they hide in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suppressions: Vec<SuppressionForm<'a>>,
    #[serde(default, skip_serializing_if = "<[Untraced]>::is_empty")]
    pub untraced: Cow<'a, [Untraced]>,
    #[serde(default)]
    pub losses: Cow<'a, Losses>,
    #[serde(default)]
    pub warnings: Cow<'a, [String]>,
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    pub notes: Cow<'a, [String]>,
    #[serde(default, skip_serializing_if = "<[Recommendation]>::is_empty")]
    pub recommendations: Cow<'a, [Recommendation]>,
}

/// A site in a file.
#[derive(Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a mark that stands in a file or does not")]
pub struct SiteForm<'a, S> {
    pub pid: Pid,
    #[serde(default)]
    pub process: Option<usize>,
    /// Absent where it is not known, as in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<SiteId>,
    pub outstanding_bytes: u64,
    pub outstanding_count: u64,
    #[serde(default)]
    pub alloc_bytes: u64,
    #[serde(default)]
    pub alloc_count: u64,
    #[serde(default)]
    pub free_bytes: u64,
    #[serde(default)]
    pub free_count: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub temporary_count: u64,
    #[serde(default, rename = "oldest_s", with = "optional_seconds")]
    pub oldest: Option<Duration>,
    #[serde(default, rename = "youngest_s", with = "optional_seconds")]
    pub youngest: Option<Duration>,
    /// Absent where it is not known.
    #[serde(default, skip_serializing_if = "Histogram::is_empty")]
    pub ages: Histogram,
    /// Absent where it is not known.
    #[serde(default, skip_serializing_if = "Histogram::is_empty")]
    pub sizes: Histogram,
    #[serde(default)]
    pub verdict: Option<Verdict>,
    /// Absent where there are none.
    #[serde(default, skip_serializing_if = "Tally::is_empty")]
    pub ignored: Tally,
    /// Name of the first rule that hides blocks of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suppressed_bytes: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub suppressed_count: u64,
    /// Every rule that hides blocks of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suppressed_by: Vec<HiddenForm>,
    #[serde(default, rename = "type")]
    pub type_name: Option<Arc<str>>,
    #[serde(default)]
    pub holders: Option<Cow<'a, [Holder]>>,
    /// Absent where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_bytes: Option<u64>,
    #[serde(default)]
    pub trend: Option<Trend>,
    #[serde(default)]
    pub growth_bytes_per_s: f64,
    #[serde(default)]
    pub growth: Option<Cow<'a, Growth>>,
    #[serde(default)]
    pub truncated: bool,
    /// Absent in files of older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_state: Option<StackState>,
    /// With the state `gap`: a frame pointer was followed in code without a table, which may have passed callers by.
    #[serde(default, skip_serializing_if = "is_false")]
    pub guessed: bool,
    /// With the state `gap`: no caller is missing, but some of the code was replaced while it was being recorded.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unsure: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub sampled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outstanding_bytes_ci95: Option<[u64; 2]>,
    #[serde(default)]
    pub stack: S,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Cow<'a, [Block]>>,
}

/// A rule that hides something.
#[derive(Serialize, Deserialize)]
pub struct SuppressionForm<'a> {
    #[serde(default)]
    pub name: Cow<'a, str>,
    #[serde(default)]
    pub source: Cow<'a, str>,
    #[serde(default)]
    pub bytes: u64,
    #[serde(default)]
    pub count: u64,
    #[serde(default)]
    pub sites: u64,
}

/// What a rule hides of a site.
#[derive(Serialize, Deserialize)]
pub struct HiddenForm {
    /// Place in `suppressions`, from 0.
    pub rule: usize,
    /// Absent where blocks were not judged: the rule hides all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Kinds>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
