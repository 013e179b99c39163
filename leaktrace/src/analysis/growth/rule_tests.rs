use super::*;

/// Epochs of ten seconds each.
const LENGTH: Duration = Duration::from_secs(10);

/// Blocks of 64 bytes: born and left in each epoch.
fn epochs(of: &[(u64, u64)]) -> Vec<Epoch> {
    let count = of.len() as u32;
    let epoch = |(at, (born, left)): (usize, &(u64, u64))| Epoch {
        length: LENGTH,
        youngest: LENGTH * (count - 1 - at as u32),
        born: *born,
        left: Tally { bytes: 64 * left, count: *left },
    };
    of.iter().enumerate().map(epoch).collect()
}

/// What is outstanding after each epoch, if all that is not left is freed at once.
fn live(of: &[(u64, u64)]) -> Vec<u64> {
    let sums = of.iter().scan(0, |sum, (_, left)| {
        *sum += 64 * left;
        Some(*sum)
    });
    sums.collect()
}

/// The verdict on a site whose freed blocks lived for three seconds at most.
fn verdict(of: &[(u64, u64)]) -> Growth {
    judge_with(of, 1000, Duration::from_secs(3))
}

fn judge_with(of: &[(u64, u64)], freed: u64, longest_life: Duration) -> Growth {
    let (epochs, live) = (epochs(of), live(of));
    judge(&Evidence { epochs: &epochs, freed, longest_life, live: &live, ..Evidence::default() })
}

#[test]
fn what_stays_in_one_epoch_after_the_other_is_a_leak_at_its_rate() {
    let growth = verdict(&[(100, 5); 20]);
    assert_eq!(growth.verdict, GrowthVerdict::Leak, "{}", growth.reason);
    assert!((growth.bytes_per_s - 32.0).abs() < 1e-9, "{}", growth.bytes_per_s);
    assert!(growth.ci95[0] <= 32.0 && 32.0 <= growth.ci95[1]);
    assert_eq!(growth.lifetime_max, Some(Duration::from_secs(3)));
    // A few blocks in three epochs are enough, if it goes on.
    let slow: Vec<_> = (0..20).map(|at| (1000, 2 * u64::from(at % 3 == 0))).collect();
    assert_eq!(verdict(&slow).verdict, GrowthVerdict::Leak);
}

#[test]
fn what_was_allocated_at_the_beginning_or_stays_for_a_while_is_none() {
    let mut warm_up = [(100, 0); 20];
    warm_up[..4].fill((500, 400));
    assert_eq!(verdict(&warm_up).verdict, GrowthVerdict::Steady);
    // The last epoch's blocks are not older than those that were freed.
    let mut busy = [(100, 0); 20];
    busy[19] = (100, 40);
    assert_eq!(verdict(&busy).verdict, GrowthVerdict::Steady);
    // A full cache: its blocks live for half of the window, then they are freed.
    let cache: Vec<_> = (0..20).map(|at| (100, if at < 10 { 0 } else { 100 })).collect();
    let growth = judge_with(&cache, 1000, Duration::from_secs(100));
    assert_ne!(growth.verdict, GrowthVerdict::Leak, "{}", growth.reason);
    // One that fills, ever more slowly, however its load changes.
    let filling: Vec<_> = (0..20).map(|at| (1000, 1000 >> at)).collect();
    assert_ne!(verdict(&filling).verdict, GrowthVerdict::Leak);
    // Growth that has stopped.
    let stopped: Vec<_> = (0..20).map(|at| (100, if at < 11 { 10 } else { 0 })).collect();
    assert_eq!(verdict(&stopped).verdict, GrowthVerdict::Steady);
    let freed =
        judge(&Evidence { epochs: &epochs(&[(5, 0); 20]), freed: 100, live: &[64, 64, 0], ..Evidence::default() });
    assert_eq!(freed.verdict, GrowthVerdict::Steady);
}

/// The verdict on a site with these blocks and this beside.
#[expect(clippy::needless_pass_by_value, reason = "a struct literal reads best without a reference")]
fn with_more(of: &[(u64, u64)], more: Evidence) -> Growth {
    let (epochs, of_blocks) = (epochs(of), live(of));
    let live = if more.live.is_empty() { &of_blocks } else { more.live };
    judge(&Evidence { epochs: &epochs, freed: 1000, longest_life: Duration::from_secs(3), live, ..more })
}

fn assert_open(growth: &Growth, reason: &str) {
    assert_eq!(growth.verdict, GrowthVerdict::Undecided, "{growth:?}");
    assert!(growth.reason.contains(reason), "{growth:?}");
    assert!(growth.bytes_per_s > 0.0, "it says how fast it grows: {growth:?}");
}

#[test]
fn a_cache_that_was_full_before_the_trace_is_no_leak() {
    let of = [(100, 20); 20];
    // Each block that stays takes the place of one that nobody has seen.
    assert_open(
        &with_more(&of, Evidence { unknown_frees: 290, ..Evidence::default() }),
        "290 blocks that are not on record",
    );
    assert_eq!(
        with_more(&of, Evidence { unknown_frees: 3, ..Evidence::default() }).verdict,
        GrowthVerdict::Leak,
        "too few for that"
    );
    let lost = Some(Tally { bytes: 64 * 400, count: 400 });
    assert_eq!(
        with_more(&of, Evidence { unknown_frees: 290, lost, ..Evidence::default() }).verdict,
        GrowthVerdict::Leak,
        "nobody has them"
    );
}

#[test]
fn what_begins_late_or_hides_in_what_comes_and_goes_is_undecided() {
    let late: Vec<_> = (0..20).map(|at| (100, if at > 12 { 20 } else { 0 })).collect();
    assert_open(&verdict(&late), "not all along");
    // As many stay, of ever more that come.
    let surge: Vec<_> = (0..20).map(|at| (100 << (at / 3), 20)).collect();
    assert_open(&verdict(&surge), "a smaller part");
    let noise: Vec<u64> = (0..20).map(|at| if at % 4 == 3 { 1000 } else { 9000 }).collect();
    assert_open(
        &with_more(&[(1000, 2); 20], Evidence { live: &noise, ..Evidence::default() }),
        "falls back as far as before",
    );
    // Two epochs are enough to see that it goes on, but for most of the time nothing happened.
    let stopped: Vec<_> = (0..20).map(|at| (100, if (6..8).contains(&at) { 90 } else { 0 })).collect();
    assert_eq!(verdict(&stopped).verdict, GrowthVerdict::Steady);
    assert_open(&with_more(&stopped, Evidence { idle: Duration::from_mins(1), ..Evidence::default() }), "did nothing");
}

#[test]
fn blocks_that_are_made_larger_are_undecided_and_more_of_a_size_are_not() {
    let freed_soon = [(100, 0); 20];
    let live: Vec<u64> = (0..40).map(|at| 1000 + 100 * at).collect();
    let mut growing = freed_soon;
    growing[19] = (100, 3);
    let of_growing = |count: &[u32]| with_more(&growing, Evidence { live: &live, count, ..Evidence::default() });
    let larger = of_growing(&[3; 40]);
    assert_open(&larger, "larger and larger");
    assert!((larger.bytes_per_s - 20.0).abs() < 1.0, "100 bytes in 5 s: {larger:?}");
    let more: Vec<u32> = (0..40).map(|at| 10 + at).collect();
    assert_eq!(of_growing(&more).verdict, GrowthVerdict::Steady, "a load that rises");
}

#[test]
fn what_cannot_be_told_is_undecided_and_says_why() {
    let short = verdict(&[(100, 5); 5]);
    assert_eq!((short.verdict, short.reason.contains("too short")), (GrowthVerdict::Undecided, true));
    let long_lived = judge_with(&[(100, 50); 20], 10, Duration::from_mins(3));
    assert_eq!(long_lived.verdict, GrowthVerdict::Undecided);
    assert!(long_lived.reason.contains("lived for 180 s"), "{}", long_lived.reason);
    let never = judge_with(&[(10, 10); 20], 0, Duration::ZERO);
    assert_eq!((never.verdict, never.lifetime_max), (GrowthVerdict::Undecided, None));
    assert!((never.bytes_per_s - 64.0).abs() < 1e-9, "it says how fast it grows");
    let (epochs, live) = (epochs(&[(10, 10); 20]), live(&[(10, 10); 20]));
    let spoilt =
        Evidence { epochs: &epochs, freed: 9, live: &live, spoilt: Some("frees were lost"), ..Evidence::default() };
    let spoilt = judge(&spoilt);
    assert_eq!((spoilt.verdict, &*spoilt.reason), (GrowthVerdict::Undecided, "frees were lost"));
}

#[test]
fn a_handful_of_blocks_is_a_leak_only_if_they_are_lost() {
    let of: Vec<_> = (0..20).map(|at| (1000, u64::from(at % 3 == 0))).collect();
    let (epochs, live) = (epochs(&of), live(&of));
    let with = |lost: Option<Tally>| {
        judge(&Evidence { epochs: &epochs, freed: 19_000, live: &live, lost, ..Evidence::default() })
    };
    let growth = with(None);
    assert_eq!(growth.verdict, GrowthVerdict::Undecided);
    assert!(growth.reason.contains("only 5 of its blocks stay") && growth.bytes_per_s > 0.0, "{growth:?}");
    assert_eq!(with(Some(Tally { bytes: 64, count: 1 })).verdict, GrowthVerdict::Undecided);
    assert_eq!(with(Some(Tally { bytes: 448, count: 7 })).verdict, GrowthVerdict::Leak);
}

#[test]
fn what_is_never_freed_is_a_leak_where_it_is_found_lost() {
    let of = [(10, 10); 20];
    let (epochs, live) = (epochs(&of), live(&of));
    let with =
        |lost: Option<Tally>| judge(&Evidence { epochs: &epochs, live: &live, lost, ..Evidence::default() }).verdict;
    assert_eq!(with(Some(Tally { bytes: 64 * 200, count: 200 })), GrowthVerdict::Leak);
    assert_eq!(with(Some(Tally { bytes: 64, count: 1 })), GrowthVerdict::Undecided, "one of them proves nothing");
    assert_eq!(with(Some(Tally::default())), GrowthVerdict::Undecided);
    assert_eq!(judge_with(&[(3, 0); 20], 0, Duration::ZERO).verdict, GrowthVerdict::Steady);
}

#[test]
fn the_interval_holds_the_rate_of_irregular_leaks() {
    let irregular: Vec<_> = (0..20u64).map(|at| (100, if at % 2 == 0 { 2 } else { 8 })).collect();
    let growth = verdict(&irregular);
    assert_eq!(growth.verdict, GrowthVerdict::Leak);
    assert!(growth.ci95[0] < 32.0 && 32.0 < growth.ci95[1] && growth.ci95[0] > 0.0, "{:?}", growth.ci95);
}
