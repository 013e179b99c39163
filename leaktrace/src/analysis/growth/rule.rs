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

/// This part of the window from its beginning is warm-up, rounded up to a whole epoch.
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
/// Where as many blocks from before the trace were freed as this part of the survivors, they may have taken their places: a full
/// cache looks so at first.
const REPLACED_PART: u64 = 4;
/// Blocks that become so much larger from the first third to the last are ones that are made larger.
const LARGER: f64 = 1.25;
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
    /// Blocks outstanding at the same moments.
    pub count: &'a [u32],
    /// How much of the time the program did nothing.
    pub idle: Duration,
    /// Blocks that were freed after the warm-up and are not on record: the program had them before the trace, mostly.
    pub unknown_frees: u64,
    /// Blocks that a leak check has found lost; `None` where none ran.
    pub lost: Option<Tally>,
    /// What makes the numbers unfit for a verdict.
    pub spoilt: Option<&'static str>,
}

/// How many of these epochs from the first on are warm-up.
pub fn warm_up(epochs: usize) -> usize {
    (epochs as f64 * WARM_UP).ceil() as usize
}

/// Whether a site has survivors, by epoch, but too few for a verdict of its own, or is not followed at all.
pub fn is_small(survivors: &[Tally], epochs: usize, is_followed: bool) -> bool {
    let after_warm_up = survivors.get(warm_up(epochs)..).unwrap_or_default();
    let left: u64 = after_warm_up.iter().map(|left| left.count).sum();
    left > 0 && (left < FEWEST_SURVIVORS || !is_followed)
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
    let late = &epochs[warm_up(epochs.len())..];
    if evidence.live.last() == Some(&0) {
        return of(GrowthVerdict::Steady, "all that it allocated was freed".into());
    }
    if late.iter().all(|epoch| epoch.left.count == 0) && epochs.len() >= FEWEST_EPOCHS {
        // True of whatever it does later.
        return of(GrowthVerdict::Steady, "what is left of it was allocated at the beginning".into());
    }
    if epochs.len() < FEWEST_EPOCHS || window < SHORTEST {
        return undecided(format!("{:.1} s are too short to tell", window.as_secs_f64()).into());
    }
    if evidence.freed == 0 {
        return never_freed(evidence, late);
    }
    let life = rounded_up(evidence.longest_life);
    let judged: Vec<Epoch> = late.iter().copied().filter(|epoch| epoch.youngest >= life).collect();
    let rate = Rate::of(&judged);
    let rising = |reason| Growth { bytes_per_s: rate.mean, ci95: rate.ci95, ..undecided(reason) };
    if judged.len() < LEAKING_EPOCHS {
        if !has_rising_floor(evidence.live) {
            return of(GrowthVerdict::Steady, "what is outstanding falls back as far as before".into());
        }
        let (lived, idle) = (seconds(evidence.longest_life), evidence.idle);
        let without =
            if idle.is_zero() { String::new() } else { format!(", {} of which it did nothing", seconds(idle)) };
        let reason = format!(
            "a block lived for {lived} before it was freed, and the others are hardly older after {}{without}; trace for longer",
            seconds(window)
        );
        return undecided(reason.into());
    }
    let leak =
        |reason: String| Growth { bytes_per_s: rate.mean, ci95: rate.ci95, ..of(GrowthVerdict::Leak, reason.into()) };
    let left: u64 = judged.iter().map(|epoch| epoch.left.count).sum();
    let is_lost = evidence.lost.is_some_and(|lost| lost.count >= left);
    match doubt(&judged, late, evidence) {
        Some(Doubt::No(reason)) => of(GrowthVerdict::Steady, reason.into()),
        Some(Doubt::Open(reason)) => rising(reason.into()),
        Some(Doubt::Larger(Rate { mean, ci95 })) => {
            let reason = "its blocks become larger and larger: a buffer or a container that grows";
            Growth { bytes_per_s: mean, ci95, ..undecided(reason.into()) }
        }
        None if left < FEWEST_SURVIVORS && !is_lost => {
            rising(format!("only {left} of its blocks stay so far; trace for longer").into())
        }
        None if evidence.unknown_frees >= left.div_ceil(REPLACED_PART) && !is_lost => rising(
            format!(
                "{} blocks that are not on record, as those from before the trace are, were freed meanwhile, and what stays may have \
                 taken their places; trace for longer",
                evidence.unknown_frees
            )
            .into(),
        ),
        None => leak(format!(
            "blocks stay for longer than the {} that any freed one lived, and more keep coming",
            seconds(evidence.longest_life)
        )),
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

/// Why a site is not said to leak.
enum Doubt {
    /// It does not.
    No(&'static str),
    /// It may.
    Open(&'static str),
    /// Not its blocks become more, but what they hold.
    Larger(Rate),
}

/// Why epochs with survivors are no leak, if they are none or may be none.
fn doubt(judged: &[Epoch], late: &[Epoch], evidence: &Evidence) -> Option<Doubt> {
    let with = judged.iter().filter(|epoch| epoch.left.count > 0).count();
    let is_few = with < LEAKING_EPOCHS || (with as f64) < SPREAD * judged.len() as f64;
    if is_few && blocks_become_larger(evidence) {
        let rate = Rate::of_live(late, evidence.live);
        // Few blocks are larger at one time than at another by chance. Containers that double at once grow in few steps.
        if rate.ci95[0] > 0.0 || never_falls(evidence.live) {
            return Some(Doubt::Larger(rate));
        }
    }
    if with == 0 {
        return Some(Doubt::No("all blocks are freed within the longest life that was seen"));
    }
    let left: u64 = judged.iter().map(|epoch| epoch.left.count).sum();
    if is_few && !evidence.idle.is_zero() && left >= FEWEST_SURVIVORS {
        return Some(Doubt::Open("blocks stay, but for a part of the time the program did nothing; trace for longer"));
    }
    if is_few {
        return Some(Doubt::No("a few blocks stay, and hardly any follow"));
    }
    if !keeps_coming(judged) {
        return Some(if comes_lately(judged) {
            Doubt::Open("blocks stay, but not all along; trace for longer")
        } else {
            Doubt::No("blocks stayed for a part of the time only, and none follow")
        });
    }
    if !keeps_on(judged, |epoch| epoch.born.max(epoch.left.count) as f64) {
        // Of a cache that fills fewer stay in each second, too.
        return Some(if keeps_on(judged, |epoch| epoch.length.as_secs_f64()) {
            Doubt::Open("as many blocks stay as before, but a smaller part of those that come; trace for longer")
        } else {
            Doubt::No("ever fewer of its blocks stay")
        });
    }
    if !has_rising_floor(evidence.live) {
        return Some(Doubt::Open("blocks stay, but what is outstanding falls back as far as before; trace for longer"));
    }
    None
}

/// Whether there are survivors in each part of these epochs.
fn keeps_coming(epochs: &[Epoch]) -> bool {
    let part = epochs.len().div_ceil(PARTS).max(1);
    epochs.rchunks(part).all(|part| part.iter().any(|epoch| epoch.left.count > 0))
}

/// Whether there are survivors in the latest part of these epochs.
fn comes_lately(epochs: &[Epoch]) -> bool {
    let part = epochs.len().div_ceil(PARTS).max(1);
    epochs.rchunks(part).next().is_some_and(|latest| latest.iter().any(|epoch| epoch.left.count > 0))
}

/// Whether in the later half as many survive as in the earlier half, give or take what chance does, for each of what `of` counts.
fn keeps_on(epochs: &[Epoch], of: impl Fn(&Epoch) -> f64) -> bool {
    let sum = |epochs: &[Epoch]| {
        let left: u64 = epochs.iter().map(|epoch| epoch.left.count).sum();
        (left as f64, epochs.iter().map(&of).sum::<f64>().max(1.0))
    };
    let (earlier, later) = epochs.split_at(epochs.len() / 2);
    let ((left_before, of_before), (left_after, of_after)) = (sum(earlier), sum(later));
    // Counts of chance events spread by their root.
    let (before, after) = (left_before / of_before, left_after / of_after);
    let spread = (left_before.max(1.0).sqrt() / of_before).hypot(left_after.max(1.0).sqrt() / of_after);
    after >= KEEPS_ON * before - 2.0 * spread
}

/// Whether from third to third what is outstanding grows although its blocks do not become more: they are replaced by larger ones.
fn blocks_become_larger(evidence: &Evidence) -> bool {
    let ([live_before, live_between, live_after], [count_before, _, count_after]) =
        (thirds(evidence.live), thirds(evidence.count));
    let blocks = |of: &[u32]| of.iter().copied().map(f64::from).sum::<f64>();
    let (before, between, after) = (least(live_before), least(live_between), least(live_after));
    let (blocks_before, blocks_after) = (blocks(count_before), blocks(count_after));
    before < between
        && between < after
        && after as f64 >= LARGER * before as f64
        && blocks_after > 0.0
        && after as f64 * blocks_before >= LARGER * before as f64 * blocks_after
}

/// Whether the least that is outstanding rises from the first third to the last.
pub fn has_rising_floor(live: &[u64]) -> bool {
    let [before, _, after] = thirds(live);
    least(after) > least(before)
}

fn least(of: &[u64]) -> u64 {
    of.iter().copied().min().unwrap_or_default()
}

/// What comes after the warm-up.
fn after_warm_up<T>(moments: &[T]) -> &[T] {
    &moments[(moments.len() as f64 * WARM_UP) as usize..]
}

/// The same in three parts of equal length, the last of which ends with it. Empty ones where there are fewer than three moments.
fn thirds<T>(moments: &[T]) -> [&[T]; 3] {
    let moments = after_warm_up(moments);
    let third = moments.len() / 3;
    let end = moments.len();
    [&moments[..third], &moments[third..2 * third], &moments[end - third..]]
}

/// Whether what is outstanding does nothing but rise, after the warm-up.
fn never_falls(live: &[u64]) -> bool {
    let pairs = after_warm_up(live).windows(2);
    let (rise, fall) = pairs.fold((0, 0), |(rise, fall), pair| {
        (rise + pair[1].saturating_sub(pair[0]), fall + pair[0].saturating_sub(pair[1]))
    });
    fall <= rise / 100
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
        Self::of_bytes(epochs, |number| epochs[number].left.bytes as f64)
    }

    /// The same of what is outstanding, from moments at equal distances that end with these epochs.
    fn of_live(epochs: &[Epoch], live: &[u64]) -> Self {
        let live = after_warm_up(live);
        let at = |number: usize| {
            let moment = number * live.len().saturating_sub(1) / epochs.len().max(1);
            live.get(moment).copied().unwrap_or_default() as f64
        };
        let rate = Self::of_bytes(epochs, |number| at(number + 1) - at(number));
        Self { mean: rate.mean.max(0.0), ..rate }
    }

    /// The same of so many bytes in each epoch.
    fn of_bytes(epochs: &[Epoch], bytes: impl Fn(usize) -> f64) -> Self {
        let total: f64 = epochs.iter().map(|epoch| epoch.length.as_secs_f64()).sum();
        if total <= 0.0 {
            return Self { mean: 0.0, ci95: [0.0; 2] };
        }
        let mean = (0..epochs.len()).map(&bytes).sum::<f64>() / total;
        let count = epochs.len() as f64;
        // Each epoch's deviation from what its length lets expect.
        let lengths = epochs.iter().map(|epoch| epoch.length.as_secs_f64());
        let squares = lengths.enumerate().map(|(number, length)| (bytes(number) - mean * length).powi(2));
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
    if seconds < 0.1 {
        return format!("{} ms", time.as_millis());
    }
    if seconds < 10.0 { format!("{seconds:.1} s") } else { format!("{seconds:.0} s") }
}

#[cfg(test)]
#[path = "rule_tests.rs"]
mod tests;
