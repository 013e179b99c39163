//! Net flow of made-up programs.

use super::*;

/// Numbers that are as good as random, the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// How many happen of what happens this often on average, independently.
    fn poisson(&mut self, mean: f64) -> u64 {
        let (mut number, mut left) = (0, mean);
        loop {
            left += self.next().max(f64::MIN_POSITIVE).ln();
            if left < 0.0 {
                return number;
            }
            number += 1;
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn flow(windows: &Windows) -> NetFlow {
    windows.net_flow(|class| [u64::from(class) * 16; 2], |_| false)
}

#[test]
fn the_interval_holds_the_truth_as_often_as_it_says() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    // A leak among blocks that come and go, and no leak.
    for (leak, turnover) in [(44.0, 0.0), (44.0, 300.0), (0.0, 300.0)] {
        for number in [5, 10, 40] {
            let (mut within, mut wrong) = (0, 0);
            for _ in 0..2000 {
                let mut windows = Windows::default();
                for _ in 0..number {
                    let allocs = random.poisson(leak + turnover);
                    windows.add(SECOND, [(4, Counts { allocs, bytes: allocs * 64, frees: random.poisson(turnover) })]);
                }
                let flow = flow(&windows).classes[0].flow;
                let [low, high] = flow.net_ci95.unwrap();
                within += u32::from(low <= leak && leak <= high);
                wrong += u32::from(leak == 0.0 && flow.finding != Finding::Undecided);
            }
            // It errs on the side of being too wide, above all with few windows.
            assert!((1880..=2000).contains(&within), "{leak} {turnover} {number}: {within}");
            assert!(wrong <= 110, "{number}: {wrong} of 2000 found something that is not there");
        }
    }
}

#[test]
fn a_leak_is_found_among_classes_that_balance() {
    let mut random = Random(7);
    let (mut found, mut wrong) = (0, 0);
    for _ in 0..200 {
        let mut windows = Windows::default();
        for _ in 0..10 {
            let mut counts: Vec<_> = (2..42)
                .map(|class| {
                    let (allocs, frees) = (random.poisson(100.0), random.poisson(100.0));
                    (class, Counts { allocs, bytes: allocs * 32, frees })
                })
                .collect();
            counts.push((50, Counts { allocs: random.poisson(44.0), bytes: 0, frees: 0 }));
            windows.add(SECOND, counts);
        }
        for class in flow(&windows).classes {
            match (class.sizes, class.flow.finding) {
                (Some([800, _]), Finding::Grows) => found += 1,
                (_, Finding::Undecided) => {}
                _ => wrong += 1,
            }
        }
    }
    assert_eq!(found, 200);
    // Of 200 times forty.
    assert!(wrong <= 14, "{wrong}");
}

#[test]
fn a_cache_that_is_full_has_no_net_flow_however_long_its_blocks_live() {
    let mut windows = Windows::default();
    for _ in 0..10 {
        windows.add(SECOND, [(6, Counts { allocs: 44, bytes: 44 * 96, frees: 44 })]);
    }
    let flow = flow(&windows);
    let class = &flow.classes[0].flow;
    assert_eq!((class.net_per_s, class.finding), (0.0, Finding::Undecided));
    assert_eq!((class.allocs_per_s, class.frees_per_s), (44.0, 44.0));
    assert_eq!(windows.suspected().count(), 0);
    assert_eq!((flow.windows, flow.open, windows.calls()), (10, SECOND * 10, 880));
}

#[test]
fn windows_of_other_lengths_and_without_events_count() {
    let mut windows = Windows::default();
    for (seconds, allocs) in [(1, 10), (2, 20), (1, 10), (4, 40), (1, 10)] {
        let counts =
            [(3, Counts { allocs, bytes: allocs * 48, frees: 0 }), (0, Counts { frees: 1, ..Counts::default() })];
        windows.add(Duration::from_secs(seconds), counts);
    }
    let flow = flow(&windows);
    let [first, second] = &flow.classes[..] else { panic!("{flow:?}") };
    assert_eq!((first.sizes, first.flow.net_per_s, first.flow.net_bytes_per_s), (Some([48, 48]), 10.0, Some(480.0)));
    // As many as there are on average, and not the none by which they differ.
    let [low, high] = first.flow.net_ci95.unwrap();
    assert!(low < 8.0 && low > 5.0 && high > 12.0, "{low} {high}");
    assert_eq!(first.flow.finding, Finding::Grows);
    assert_eq!((second.sizes, second.flow.net_bytes_per_s), (None, None));
    assert_eq!(flow.all.net_bytes_per_s, None, "of some blocks the size is not known");
    assert_eq!(windows.suspected().collect::<Vec<_>>(), [3]);
}

#[test]
fn few_windows_decide_nothing() {
    let mut windows = Windows::default();
    assert_eq!(flow(&windows).all, Flow { net_bytes_per_s: Some(0.0), ..Flow::default() });
    for number in 1..=LEAST_WINDOWS {
        windows.add(SECOND, [(2, Counts { allocs: 1000, bytes: 32_000, frees: 0 })]);
        let flow = flow(&windows);
        assert_eq!(flow.all.net_ci95.is_some(), number >= 2);
        let expected = if number < LEAST_WINDOWS { Finding::Undecided } else { Finding::Grows };
        assert_eq!((flow.all.finding, flow.classes[0].flow.finding), (expected, expected));
    }
}
