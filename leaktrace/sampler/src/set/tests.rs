//! The set against a model, and under every order in which threads may get at it.

use super::*;
use crate::filter::Filter;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

fn sample(address: u64) -> Sample {
    Sample { address, size: address * 3, weight: address * 7 }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u64, u64),
    Take(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let address = (1u64..200).prop_map(|n| n << 4);
    let step = prop_oneof![
        (address.clone(), 0u64..1000).prop_map(|(address, size)| Step::Insert(address, size)),
        address.prop_map(Step::Take),
    ];
    proptest::collection::vec(step, 0..400)
}

proptest! {
    #[test]
    fn it_is_a_map_that_may_be_full(steps in steps()) {
        let set = Set::<AtomicU64, 8, 8>::of(|| AtomicU64::new(0));
        let mut model = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(address, size) => {
                    let sample = Sample { address, size, weight: size + 1 };
                    match set.insert(sample) {
                        Inserted::New => prop_assert_eq!(model.insert(address, sample), None),
                        Inserted::InPlaceOf(earlier) => prop_assert_eq!(model.insert(address, sample), Some(earlier)),
                        Inserted::NoRoom => {
                            prop_assert!(!model.contains_key(&address));
                            // Two buckets are full, or one where both are the same.
                            prop_assert!(model.len() >= WAYS);
                        }
                    }
                }
                Step::Take(address) => prop_assert_eq!(set.take(address), model.remove(&address)),
            }
        }
        for (address, sample) in model {
            prop_assert_eq!(set.take(address), Some(sample));
            prop_assert_eq!(set.take(address), None);
        }
    }
}

#[test]
fn no_address_is_ever_found_in_an_empty_set() {
    let set = Set::<AtomicU64, 8, 8>::default();
    assert_eq!(set.take(0), None);
    assert_eq!(set.take(16), None);
}

/// With addresses as they come from an allocator the set fills to four fifths before one is refused.
#[test]
fn it_fills_to_four_fifths() {
    let set = Set::<AtomicU64, 256, WAYS>::of(|| AtomicU64::new(0));
    let slots = 256 * WAYS as u64;
    for stride in [16, 48, 4096, 1 << 20] {
        let addresses = (1..).map(|n| 0x7f12_3400_0010 + n * stride);
        let held: Vec<u64> = addresses.take_while(|address| set.insert(sample(*address)) == Inserted::New).collect();
        assert!(held.len() as u64 * 5 >= slots * 4, "{stride}: {} of {slots}", held.len());
        for address in held {
            assert_eq!(set.take(address), Some(sample(address)));
        }
    }
}

mod interleaved {
    use super::super::*;
    use super::sample;
    use crate::filter::Filter;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
    use loom::thread;

    /// Two slots, so that all addresses meet.
    struct Samples {
        filter: Filter<AtomicU8, 1>,
        set: Set<AtomicU64, 1, 2>,
    }

    impl Samples {
        fn new() -> Arc<Self> {
            Arc::new(Self { filter: Filter::of([AtomicU8::new(0)]), set: Set::of(|| AtomicU64::new(0)) })
        }

        /// As `samples::enter`.
        fn enter(&self, sample: Sample) -> Inserted {
            self.filter.add(sample.address);
            let inserted = self.set.insert(sample);
            if inserted != Inserted::New {
                self.filter.remove(sample.address);
            }
            inserted
        }

        /// As `samples::leave`.
        fn leave(&self, address: u64) -> Option<Sample> {
            if !self.filter.may_hold(address) {
                return None;
            }
            let sample = self.set.take(address)?;
            self.filter.remove(address);
            Some(sample)
        }
    }

    /// Every order with up to two switches from a thread that could go on, which is where such errors show (Musuvathi and Qadeer
    /// 2007); all orders of three threads would take hours.
    fn every_order(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(2);
        builder.check(model);
    }

    #[test]
    fn a_block_that_is_handed_to_another_thread_is_found_there() {
        every_order(|| {
            let samples = Samples::new();
            let hand = Arc::new(AtomicUsize::new(0));
            let giver = thread::spawn({
                let (samples, hand) = (Arc::clone(&samples), Arc::clone(&hand));
                move || {
                    assert_eq!(samples.enter(sample(16)), Inserted::New);
                    hand.store(16, Ordering::Release);
                }
            });
            // Comes and goes meanwhile in the slot beside it.
            let other = thread::spawn({
                let samples = Arc::clone(&samples);
                move || {
                    assert_eq!(samples.enter(sample(32)), Inserted::New);
                    assert_eq!(samples.leave(32), Some(sample(32)));
                }
            });
            if hand.load(Ordering::Acquire) == 16 {
                assert_eq!(samples.leave(16), Some(sample(16)));
            }
            giver.join().unwrap();
            other.join().unwrap();
            let is_left = samples.leave(16);
            assert!(is_left.is_none_or(|left| left == sample(16)));
            assert!(!samples.filter.may_hold(16), "what is empty is known to be");
        });
    }

    #[test]
    fn of_two_threads_that_free_the_same_block_one_gets_it() {
        every_order(|| {
            let samples = Samples::new();
            assert_eq!(samples.enter(sample(16)), Inserted::New);
            let other = thread::spawn({
                let samples = Arc::clone(&samples);
                move || samples.leave(16)
            });
            let mine = samples.leave(16);
            let theirs = other.join().unwrap();
            assert!(mine.is_some() != theirs.is_some(), "{mine:?} {theirs:?}");
            assert!(!samples.filter.may_hold(16));
        });
    }

    #[test]
    fn two_threads_share_the_last_slot() {
        every_order(|| {
            let samples = Samples::new();
            assert_eq!(samples.set.insert(sample(48)), Inserted::New);
            let work = |samples: &Samples, address| {
                // Without the filter, which the other tests have: that leaves few enough orders.
                match samples.set.insert(sample(address)) {
                    Inserted::New => assert_eq!(samples.set.take(address), Some(sample(address))),
                    Inserted::NoRoom => {}
                    Inserted::InPlaceOf(_) => panic!("nobody else has this address"),
                }
            };
            let other = thread::spawn({
                let samples = Arc::clone(&samples);
                move || work(&samples, 16)
            });
            work(&samples, 32);
            other.join().unwrap();
            assert_eq!([16, 32, 48].map(|address| samples.set.take(address)), [None, None, Some(sample(48))]);
        });
    }

    /// The address goes from one block to the next while another thread, which has freed the first, allocates.
    #[test]
    fn an_address_that_is_reused_carries_its_new_sample() {
        every_order(|| {
            let samples = Samples::new();
            assert_eq!(samples.enter(sample(16)), Inserted::New);
            // What the allocator does between the threads: the address is free from here on.
            let free = Arc::new(AtomicUsize::new(0));
            let other = thread::spawn({
                let (samples, free) = (Arc::clone(&samples), Arc::clone(&free));
                move || {
                    assert_eq!(samples.leave(16), Some(sample(16)));
                    free.store(1, Ordering::Release);
                }
            });
            let next = Sample { address: 16, size: 1, weight: 2 };
            if free.load(Ordering::Acquire) == 1 {
                assert_eq!(samples.enter(next), Inserted::New);
                assert_eq!(samples.leave(16), Some(next));
            }
            other.join().unwrap();
            assert!(!samples.filter.may_hold(16));
        });
    }
}

/// Threads of the machine, for orders that loom's bounds leave out.
#[test]
fn threads_lose_nothing() {
    let filter = Box::new(Filter::<std::sync::atomic::AtomicU8, 64>::new());
    let set = Set::<AtomicU64, 64, WAYS>::of(|| AtomicU64::new(0));
    let threads = 4;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (filter, set) = (&filter, &set);
            scope.spawn(move || {
                for round in 0..20_000u64 {
                    let addresses: Vec<u64> = (1..=20).map(|n| (n + round * 20) * 16 * threads + thread * 16).collect();
                    for address in &addresses {
                        filter.add(*address);
                        assert_eq!(set.insert(sample(*address)), Inserted::New);
                    }
                    for address in &addresses {
                        assert!(filter.may_hold(*address));
                        assert_eq!(set.take(*address), Some(sample(*address)));
                        filter.remove(*address);
                    }
                }
            });
        }
    });
    assert!((0..64).all(|n| !filter.may_hold(n << 4)));
}
