//! Whether a site leaks: survivors by epoch of birth.
//!
//! In: how many blocks of a site were born in each epoch, how many of those are still there, the longest life of a freed one, and
//! the outstanding bytes over time. Out: a verdict with its reason.
//!
//! A block is a *survivor* if it is older than any block of the site has lived that was freed. A cache that is full keeps blocks for
//! as long as it keeps them, and frees them: no survivors. What is allocated once at the start survives, but nothing follows. A leak
//! has survivors in one epoch after the other. What was never freed at all may be a leak, or a cache that is not full yet.

use std::borrow::Cow;
use std::time::Duration;

use crate::model::{Growth, GrowthVerdict, Tally};

/// Less than this part of the window from its beginning is warm-up.
const WARM_UP: f64 = 0.25;
/// At least so many epochs with survivors make a leak.
const LEAKING_EPOCHS: usize = 3;
/// Fewer survivors tell nothing: whether ever fewer stay, as where a heap warms up, cannot be seen of them.
const FEWEST_SURVIVORS: u64 = 8;
/// In at least this part of the epochs that are judged there are survivors: leaks may come in steps, minutes apart.
const SPREAD: f64 = 0.15;
/// And in each of so many parts of them, the last of which is lately.
const PARTS: usize = 3;
/// Survivors of each birth in the later half, compared with the earlier one: a cache that fills keeps ever fewer.
const KEEPS_ON: f64 = 0.6;
/// Fewer epochs than this tell nothing.
const FEWEST_EPOCHS: usize = 8;
/// Shorter windows tell nothing: the programs' clock counts hundredths of a second or less.
const SHORTEST: Duration = Duration::from_secs(2);
/// The student distribution's 97.5 % quantile, by degrees of freedom from 2 on.
const STUDENT: [f64; 19] = [
    4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
    2.101, 2.093, 2.086,
];

/// Blocks of one epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epoch {
    /// How long it was.
    pub length: Duration,
    /// How old a block is at least that was born in it, without the time in which its process did nothing.
    pub youngest: Duration,
    /// Blocks born in it.
    pub born: u64,
    /// Those of them that are still there.
    pub left: Tally,
}

/// What is known of a site.
#[derive(Debug, Clone, Default)]
pub struct Evidence<'a> {
    /// From the first to the last.
    pub epochs: &'a [Epoch],
    /// Blocks freed.
    pub freed: u64,
    /// The longest life of one that was freed.
    pub longest_life: Duration,
    /// Bytes outstanding over time, at moments at about equal distances.
    pub live: &'a [u64],
    /// Blocks that a leak check has found lost; `None` where none ran.
    pub lost: Option<Tally>,
    /// What makes the numbers unfit for a verdict.
    pub spoilt: Option<&'static str>,
}

/// The verdict on a site.
pub fn judge(evidence: &Evidence) -> Growth {
    let lifetime_max = (evidence.freed > 0).then_some(evidence.longest_life);
    let of =
        |verdict, reason: Cow<'static, str>| Growth { verdict, bytes_per_s: 0.0, ci95: [0.0; 2], reason, lifetime_max };
    let undecided = |reason| of(GrowthVerdict::Undecided, reason);
    if let Some(spoilt) = evidence.spoilt {
        return undecided(spoilt.into());
    }
    let epochs = evidence.epochs;
    let window: Duration = epochs.iter().map(|epoch| epoch.length).sum();
    let after_warm_up = &epochs[(epochs.len() as f64 * WARM_UP).ceil() as usize..];
    if evidence.live.last() == Some(&0) {
        return of(GrowthVerdict::Steady, "all that it allocated was freed".into());
    }
    if after_warm_up.iter().all(|epoch| epoch.left.count == 0) && epochs.len() >= FEWEST_EPOCHS {
        // True of whatever it does later.
        return of(GrowthVerdict::Steady, "what is left of it was allocated at the beginning".into());
    }
    if epochs.len() < FEWEST_EPOCHS || window < SHORTEST {
        return undecided(format!("{:.1} s are too short to tell", window.as_secs_f64()).into());
    }
    if evidence.freed == 0 {
        return never_freed(evidence, after_warm_up);
    }
    let life = rounded_up(evidence.longest_life);
    let judged: Vec<Epoch> = after_warm_up.iter().copied().filter(|epoch| epoch.youngest >= life).collect();
    if judged.len() < LEAKING_EPOCHS {
        if !has_rising_floor(evidence.live) {
            return of(GrowthVerdict::Steady, "what is outstanding falls back as far as before".into());
        }
        let lived = seconds(evidence.longest_life);
        let reason = format!(
            "a block lived for {lived} before it was freed, and the others are hardly older after {}; trace for longer",
            seconds(window)
        );
        return undecided(reason.into());
    }
    let rate = Rate::of(&judged);
    let leak =
        |reason: String| Growth { bytes_per_s: rate.mean, ci95: rate.ci95, ..of(GrowthVerdict::Leak, reason.into()) };
    let left: u64 = judged.iter().map(|epoch| epoch.left.count).sum();
    match doubt(&judged, evidence.live) {
        None if left < FEWEST_SURVIVORS && evidence.lost.is_none_or(|lost| lost.count < left) => Growth {
            bytes_per_s: rate.mean,
            ci95: rate.ci95,
            ..undecided(format!("only {left} of its blocks stay so far; trace for longer").into())
        },
        None => leak(format!(
            "blocks stay for longer than the {} that any freed one lived, and more keep coming",
            seconds(evidence.longest_life)
        )),
        Some(doubt) => of(GrowthVerdict::Steady, doubt.into()),
    }
}

/// Of a site of which no block was ever freed: a leak only where a leak check says that what it allocates is lost.
fn never_freed(evidence: &Evidence, epochs: &[Epoch]) -> Growth {
    let rate = Rate::of(epochs);
    let with = epochs.iter().filter(|epoch| epoch.left.count > 0).count();
    let left: u64 = epochs.iter().map(|epoch| epoch.left.count).sum();
    let keeps_coming = with >= LEAKING_EPOCHS && with as f64 >= SPREAD * epochs.len() as f64 && keeps_coming(epochs);
    let of = |verdict, reason: &'static str| Growth {
        verdict,
        bytes_per_s: rate.mean,
        ci95: rate.ci95,
        reason: reason.into(),
        lifetime_max: None,
    };
    match evidence.lost {
        // Most of what came lately cannot be what the check found if it found less than half of that.
        Some(lost) if keeps_coming && lost.count >= left.div_ceil(2) => {
            of(GrowthVerdict::Leak, "it never frees, more keeps coming, and the leak check finds it lost")
        }
        _ if !keeps_coming => Growth {
            bytes_per_s: 0.0,
            ci95: [0.0; 2],
            ..of(GrowthVerdict::Steady, "it never frees, and hardly anything has come since the beginning")
        },
        _ => of(GrowthVerdict::Undecided, "none of its blocks was ever freed: a leak, or a cache that is not full yet"),
    }
}

/// Why epochs with survivors are no leak, if they are none.
fn doubt(judged: &[Epoch], live: &[u64]) -> Option<&'static str> {
    let with = judged.iter().filter(|epoch| epoch.left.count > 0).count();
    if with == 0 {
        return Some("all blocks are freed within the longest life that was seen");
    }
    if with < LEAKING_EPOCHS || (with as f64) < SPREAD * judged.len() as f64 {
        return Some("a few blocks stay, and hardly any follow");
    }
    if !keeps_coming(judged) {
        return Some("blocks stay for a part of the time only, not all along and until now");
    }
    if !keeps_on(judged) {
        return Some("ever fewer of its blocks stay");
    }
    if !has_rising_floor(live) {
        return Some("blocks stay, but what is outstanding falls back as far as before");
    }
    None
}

/// Whether there are survivors in each part of these epochs.
fn keeps_coming(epochs: &[Epoch]) -> bool {
    let part = epochs.len().div_ceil(PARTS).max(1);
    epochs.rchunks(part).all(|part| part.iter().any(|epoch| epoch.left.count > 0))
}

/// Whether of the births in the later half as many survive as of those in the earlier half, give or take what chance does.
fn keeps_on(epochs: &[Epoch]) -> bool {
    let sum = |epochs: &[Epoch]| {
        let born: u64 = epochs.iter().map(|epoch| epoch.born).sum();
        let left: u64 = epochs.iter().map(|epoch| epoch.left.count).sum();
        (left as f64, born.max(left).max(1) as f64)
    };
    let (earlier, later) = epochs.split_at(epochs.len() / 2);
    let ((left_before, born_before), (left_after, born_after)) = (sum(earlier), sum(later));
    // Counts of chance events spread by their root.
    let (before, after) = (left_before / born_before, left_after / born_after);
    let spread = (left_before.max(1.0).sqrt() / born_before).hypot(left_after.max(1.0).sqrt() / born_after);
    after >= KEEPS_ON * before - 2.0 * spread
}

/// Whether the least that is outstanding rises from third to third, after the warm-up.
fn has_rising_floor(live: &[u64]) -> bool {
    let after_warm_up = &live[(live.len() as f64 * WARM_UP) as usize..];
    let third = after_warm_up.len() / 3;
    if third == 0 {
        return false;
    }
    let least = |of: &[u64]| of.iter().copied().min().unwrap_or_default();
    least(&after_warm_up[after_warm_up.len() - third..]) > least(&after_warm_up[..third])
}

/// Bytes that stay, of each second.
#[derive(Debug, Clone, Copy)]
struct Rate {
    mean: f64,
    ci95: [f64; 2],
}

impl Rate {
    /// The mean of the epochs, and what their spread says of its error.
    fn of(epochs: &[Epoch]) -> Self {
        let total: f64 = epochs.iter().map(|epoch| epoch.length.as_secs_f64()).sum();
        if total <= 0.0 {
            return Self { mean: 0.0, ci95: [0.0; 2] };
        }
        let mean = epochs.iter().map(|epoch| epoch.left.bytes as f64).sum::<f64>() / total;
        let count = epochs.len() as f64;
        // Each epoch's deviation from what its length lets expect.
        let squares = epochs.iter().map(|epoch| (epoch.left.bytes as f64 - mean * epoch.length.as_secs_f64()).powi(2));
        let error = (squares.sum::<f64>() / (count * (count - 1.0).max(1.0))).sqrt() * count / total;
        let student = STUDENT.get(epochs.len().saturating_sub(3)).or(STUDENT.last()).copied().unwrap_or(2.0);
        Self { mean, ci95: [(mean - student * error).max(0.0), mean + student * error] }
    }
}

/// A life, with room for those that are a little longer: the next power of two of milliseconds.
fn rounded_up(life: Duration) -> Duration {
    let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX / 4).max(8);
    Duration::from_millis(millis.next_power_of_two())
}

fn seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 10.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

#[cfg(test)]
#[path = "rule_tests.rs"]
mod tests;
