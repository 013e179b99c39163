//! What holds of every difference, whatever the sites.

use proptest::prelude::*;

use super::tests::{Given, compared};
use super::*;
use crate::model::{Difference, Matched};

/// Sites with ids and names that often meet.
fn any_sites() -> impl Strategy<Value = Vec<Given>> {
    let frame = (prop::sample::select(vec!["f", "g", "main", ""]), prop::sample::select(vec!["app", "lib"]), 1u8..4);
    let frame = frame.prop_map(|(name, file, offset)| format!("{name}@{file}+{offset}"));
    let site = (
        prop::sample::select(vec!["a", "a", "b"]),
        prop::option::weighted(0.97, 0u8..6),
        prop::collection::vec(frame, 0..3),
        0u64..4,
        0u64..3,
    );
    let site = site.prop_map(|(comm, id, stack, bytes, count)| Given { comm, id, stack, bytes: bytes * 16, count });
    prop::collection::vec(site, 0..12)
}

/// What a difference says of a site, without what depends on places in the snapshots.
#[derive(Debug, PartialEq)]
struct Said {
    stack: Vec<(Option<String>, Option<u64>)>,
    change: Change,
    matched: Option<Matched>,
    amount: Pair<Tally>,
    program: usize,
}

fn said(diff: &Diff) -> Vec<Said> {
    let one = |site: &SiteDiff| {
        let stack = diff.shown(site).map(|(_, shown)| &shown.stack);
        Said {
            stack: stack.into_iter().flatten().map(|frame| (frame.function.clone(), frame.module_offset)).collect(),
            change: site.change,
            matched: site.matched,
            amount: site.amount.map(|amount| amount.outstanding),
            program: site.program,
        }
    };
    diff.sites.iter().map(one).collect()
}

fn opposite(change: Change) -> Change {
    match change {
        Change::Grew => Change::Shrank,
        Change::Shrank => Change::Grew,
        Change::New => Change::Gone,
        Change::Gone => Change::New,
        same => same,
    }
}

proptest! {
    #[test]
    fn a_snapshot_does_not_differ_from_itself(sites in any_sites()) {
        let diff = compared(&sites, &sites);
        prop_assert!(diff.sites.iter().all(|site| site.change == Change::Unchanged && site.matched == Some(Matched::Code)));
        prop_assert_eq!(diff.totals().difference(), Difference::default());
    }

    #[test]
    fn swapping_negates(before in any_sites(), after in any_sites()) {
        let (there, back) = (compared(&before, &after), compared(&after, &before));
        let totals = [&there, &back].map(|diff| diff.totals().difference());
        prop_assert_eq!((totals[0].bytes, totals[0].count), (-totals[1].bytes, -totals[1].count));
        let parts = |diff: &Diff, turn: bool| {
            let mut parts: Vec<_> = diff.sites.iter().map(|site| {
                let Difference { bytes, count } = site.amount.difference();
                let (sign, change) = if turn { (-1, opposite(site.change)) } else { (1, site.change) };
                (change, site.matched.map(|it| it as u8), bytes * sign, count * sign)
            }).collect();
            parts.sort_unstable();
            parts
        };
        prop_assert_eq!(parts(&there, false), parts(&back, true));
    }

    #[test]
    fn each_site_is_in_one_match_and_sums_are_those_of_the_snapshots(before in any_sites(), after in any_sites()) {
        let diff = compared(&before, &after);
        let sides: [(&[Given], Vec<usize>); 2] = [
            (&before, diff.sites.iter().flat_map(|site| site.sites.before.clone()).collect()),
            (&after, diff.sites.iter().flat_map(|site| site.sites.after.clone()).collect()),
        ];
        for (sites, mut places) in sides {
            let number = places.len();
            places.sort_unstable();
            places.dedup();
            prop_assert_eq!(places.len(), number, "matched twice");
            let outstanding = |place: &usize| sites[*place].bytes > 0 || sites[*place].count > 0;
            prop_assert!((0..sites.len()).filter(outstanding).all(|place| places.binary_search(&place).is_ok()));
        }
        let sum = |sites: &[Given]| sites.iter().map(|site| i128::from(site.bytes)).sum::<i128>();
        let by_sites: i128 = diff.sites.iter().map(|site| site.amount.difference().bytes).sum();
        prop_assert_eq!(by_sites, sum(&after) - sum(&before));
    }

    #[test]
    fn the_order_of_sites_does_not_matter(
        (before, mixed) in any_sites().prop_flat_map(|sites| (Just(sites.clone()), Just(sites).prop_shuffle())),
        (after, mixed_after) in any_sites().prop_flat_map(|sites| (Just(sites.clone()), Just(sites).prop_shuffle())),
    ) {
        prop_assert_eq!(said(&compared(&before, &after)), said(&compared(&mixed, &mixed_after)));
    }
}
