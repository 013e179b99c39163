//! Tests of the way from raw numbers to a snapshot. The numbers expected are worked out by hand from the two processes
//! below.

use super::*;
use crate::model::sampling::Weights;
use crate::model::{Code, ProcessTimeline, RawBlock, RawPeak, Schema, SortKey, Written};

fn raw_process(life: u32, pid: u32, comm: &str) -> RawProcess {
    RawProcess {
        life,
        pid: Pid(pid),
        start_time: None,
        comm: comm.to_owned(),
        exe: None,
        exited: false,
        exit_status: None,
        peak_bytes: 0,
        untracked_frees: 0,
        thread_end_frees: 0,
        abandoned_calls: 0,
        merged: 0,
        memory: MemoryUse::default(),
        heap_pages: None,
        leak_check: None,
        taken_back: Tally::default(),
        holders: Vec::new(),
        scattered_growth: None,
        net_flow: None,
        window: None,
        timeline: None,
    }
}

fn raw_site(process: usize, frames: &[u64], allocated: (u64, u64), freed: (u64, u64)) -> RawSite {
    RawSite {
        process,
        frames: frames.iter().copied().map(Address).collect(),
        counters: Counters {
            alloc_bytes: allocated.0,
            alloc_count: allocated.1,
            free_bytes: freed.0,
            free_count: freed.1,
            ..Counters::default()
        },
        truncated: false,
        stack_state: StackState::Whole,
        past: None,
    }
}

fn block(site: usize, address: u64, bytes: u64, seconds: u64) -> RawBlock {
    RawBlock {
        site,
        address: Address(address),
        size: bytes,
        weight: None,
        age: Duration::from_secs(seconds),
        time: 0,
        ignored: false,
        kind: None,
    }
}

/// Two lives of pid 7 (a shell that became a server); the server's stack 0x10,0x20 appears twice.
fn capture(options: Options) -> Capture {
    let sites = vec![
        raw_site(0, &[0x10, 0x20], (100, 2), (0, 0)),
        raw_site(1, &[0x10, 0x20], (1000, 10), (400, 4)),
        raw_site(1, &[], (8, 1), (0, 0)),
        raw_site(1, &[0x10, 0x20], (30, 1), (0, 0)),
    ];
    let blocks = [
        block(0, 0xa000, 60, 9),
        block(0, 0xa100, 40, 8),
        block(1, 0xb500, 100, 1),
        block(1, 0xb400, 100, 2),
        block(1, 0xb300, 100, 3),
        block(1, 0xb200, 100, 4),
        block(1, 0xb100, 100, 5),
        block(1, 0xb000, 100, 5),
        block(2, 0xc000, 8, 2),
        block(3, 0xd000, 30, 7),
        block(99, 0xe000, 5, 1),
    ];
    Capture {
        started: Timestamp::UNIX_EPOCH,
        elapsed: Duration::from_secs(10),
        sequence: 1,
        is_final: true,
        target: Target { pids: vec![Pid(7)], ..Target::new(crate::model::TraceMode::Pid) },
        blocks: Some(BlockTally::read(sites.len(), &options, blocks)),
        options,
        reproduction: Reproduction::default(),
        bursts: None,
        processes: vec![raw_process(0, 7, "sh"), raw_process(1, 7, "server")],
        sites,
        tells_earlier: true,
        described: HashMap::new(),
        growth: Vec::new(),
        pinned: HashMap::new(),
        stacks: None,
        untraced: Vec::new(),
        events: Vec::new(),
        losses: Losses::default(),
        warnings: vec![],
        silence: vec![],
        notes: vec![],
    }
}

fn resolve(_: &RawProcess, stack: &[Address]) -> Named {
    let frames = stack.iter().copied().map(Frame::unresolved).map(Arc::new).collect();
    Named { frames, id: SiteId::of(stack.iter().map(|address| Code::File(b"a", address.0))) }
}

fn numbers(snapshot: &Snapshot) -> Vec<(Option<usize>, u64, u64)> {
    snapshot.sites.iter().map(|s| (s.process, s.outstanding_bytes, s.outstanding_count)).collect()
}

#[test]
fn what_the_program_calls_no_leak_is_summed_by_site_and_outlives_filters_and_files() {
    let options = Options { show_allocs: true, ..Options::default() };
    let mut capture = capture(options.clone());
    let blocks = [(1, 0xb500, 1), (3, 0xd000, 7), (1, 0xb400, 2)]
        .map(|(site, address, seconds)| RawBlock { ignored: address != 0xb400, ..block(site, address, 100, seconds) });
    capture.blocks = Some(BlockTally::read(4, &options, blocks));
    let snapshot = capture.into_snapshot(&mut resolve);
    let ignored = |snapshot: &Snapshot| snapshot.sites.iter().map(|site| site.ignored.count).collect::<Vec<_>>();
    assert_eq!(ignored(&snapshot), [2, 0, 0], "both sites are one");
    assert_eq!(snapshot.sites[0].ignored, Tally { bytes: 200, count: 2 });
    let mut older = snapshot.clone();
    older.retain_older_than(Duration::from_secs(2)).unwrap();
    assert_eq!(ignored(&older)[0], 1);
    assert_eq!(snapshot.leaked_bytes(), 630 + 100 + 8 - 200);
}

#[test]
fn equal_stacks_merge_within_a_life_and_not_across() {
    let snapshot = capture(Options { show_allocs: true, ..Options::default() }).into_snapshot(&mut resolve);
    assert_eq!(numbers(&snapshot), [(Some(1), 630, 7), (Some(0), 100, 2), (Some(1), 8, 1)]);
    let server = &snapshot.sites[0];
    assert_eq!((server.alloc_bytes, server.alloc_count, server.free_bytes, server.free_count), (1030, 11, 400, 4));
    assert_eq!((server.oldest, server.youngest), (Some(Duration::from_secs(7)), Some(Duration::from_secs(1))));
    let order: Vec<u64> = server.blocks.as_ref().unwrap().iter().map(|block| block.address.0).collect();
    assert_eq!(order, [0xd000, 0xb000, 0xb100, 0xb200, 0xb300, 0xb400, 0xb500], "oldest first, then by address");
    let comms: Vec<_> = snapshot.sites.iter().map(|s| snapshot.process_of(s).unwrap().comm.as_str()).collect();
    assert_eq!(comms, ["server", "sh", "server"]);
    snapshot.check_sums().unwrap();
}

#[test]
fn a_stack_is_complete_where_one_of_its_walks_came_to_the_outermost_frame() {
    for (first, second, joined) in [
        (StackState::Whole, StackState::Stopped, StackState::Whole),
        (StackState::Stopped, StackState::Whole, StackState::Whole),
        (StackState::Stopped, StackState::Stopped, StackState::Cut),
        (StackState::Whole, StackState::Cut, StackState::Cut),
    ] {
        let mut capture = capture(Options::default());
        capture.sites[1].stack_state = first;
        capture.sites[3].stack_state = second;
        let snapshot = capture.into_snapshot(&mut resolve);
        assert_eq!(snapshot.sites[0].stack_state, Some(joined), "{first:?}, {second:?}");
    }
}

#[test]
fn processes_sum_their_sites() {
    let snapshot = capture(Options::default()).into_snapshot(&mut resolve);
    let sums: Vec<_> = snapshot.processes.iter().map(|p| (p.outstanding_bytes, p.alloc_count, p.free_bytes)).collect();
    assert_eq!(sums, [(100, 2, 0), (638, 12, 400)]);
    assert!(snapshot.sites.iter().all(|site| site.blocks.is_none()), "blocks only where asked for");
}

#[test]
fn age_filter_counts_the_blocks_that_remain() {
    let options =
        Options { older_than: Duration::from_secs(5), show_allocs: true, all_sites: true, ..Options::default() };
    let snapshot = capture(options).into_snapshot(&mut resolve);
    assert_eq!(numbers(&snapshot), [(Some(1), 230, 3), (Some(0), 100, 2), (Some(1), 0, 0)]);
    assert_eq!(snapshot.sites[0].alloc_bytes, 1030, "what was allocated does not depend on age");
    snapshot.check_sums().unwrap();
}

#[test]
fn sites_with_nothing_outstanding_are_named_only_where_asked_for() {
    let mut named = 0;
    let mut counting = |process: &RawProcess, stack: &[Address]| {
        named += 1;
        resolve(process, stack)
    };
    let mut freed = capture(Options::default());
    freed.sites.push(raw_site(0, &[0x70], (500, 5), (500, 5)));
    let snapshot = freed.into_snapshot(&mut counting);
    assert_eq!((snapshot.sites.len(), snapshot.sites_left_out, named), (3, 1, 2));
    assert_eq!(snapshot.processes[0].alloc_bytes, 600, "the process has them in its sums");
    assert_eq!(snapshot.totals().alloc_count, 19);
    snapshot.check_sums().unwrap();

    let mut freed = capture(Options { all_sites: true, ..Options::default() });
    freed.sites.push(raw_site(0, &[0x70], (500, 5), (500, 5)));
    let snapshot = freed.into_snapshot(&mut resolve);
    assert_eq!((snapshot.sites.len(), snapshot.sites_left_out), (4, 0));
    assert_eq!(snapshot.sites[3].stack.len(), 1);
    snapshot.check_sums().unwrap();
}

#[test]
fn streaming_and_filtering_afterwards_agree() {
    let age = Duration::from_secs(3);
    let while_read = capture(Options { older_than: age, show_allocs: true, all_sites: true, ..Options::default() });
    let mut afterwards =
        capture(Options { show_allocs: true, all_sites: true, ..Options::default() }).into_snapshot(&mut resolve);
    afterwards.retain_older_than(age).unwrap();
    afterwards.sort_sites(SortKey::Bytes);
    assert_eq!(while_read.into_snapshot(&mut resolve), afterwards);
}

#[test]
fn an_age_filter_without_blocks_is_said_and_not_claimed() {
    let mut capture = capture(Options { older_than: Duration::from_secs(5), ..Options::default() });
    capture.blocks = None;
    let snapshot = capture.into_snapshot(&mut resolve);
    assert_eq!(snapshot.totals().bytes, 738);
    assert!(snapshot.options.older_than.is_zero());
    assert!(snapshot.warnings[0].contains("--older-than"), "{:?}", snapshot.warnings);
}

#[test]
fn zero_events_are_a_warning() {
    let mut capture = capture(Options::default());
    capture.sites.clear();
    let snapshot = capture.into_snapshot(&mut resolve);
    assert_eq!(snapshot.warnings.len(), 1);
    assert!(snapshot.warnings[0].contains("does not mean that nothing leaks"));
    // Where it is known why, that is said instead.
    let mut known = self::capture(Options::default());
    known.sites.clear();
    known.silence = vec![Silence::DescendantsLeftOut];
    let warnings = known.into_snapshot(&mut resolve).warnings;
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("not one allocation was seen") && warnings[0].contains("--no-follow"),
        "{warnings:?}"
    );
}

#[test]
fn resolver_sees_the_life_and_may_add_inlined_frames() {
    let mut lives = Vec::new();
    let mut resolver = |process: &RawProcess, stack: &[Address]| {
        lives.push((process.life, stack.len()));
        let mut inlined = Frame::unresolved(stack[0]);
        inlined.inlined = true;
        let mut named = resolve(process, stack);
        named.frames.insert(0, Arc::new(inlined));
        named
    };
    let snapshot = capture(Options::default()).into_snapshot(&mut resolver);
    assert_eq!(snapshot.sites[0].stack.len(), 3);
    assert_eq!(lives, [(0, 2), (1, 2)], "one call a distinct stack, none for a site without frames");
}

#[test]
fn counters_read_while_moving_never_go_below_zero() {
    let counters = Counters { alloc_bytes: 10, alloc_count: 1, free_bytes: 20, free_count: 2, ..Counters::default() };
    assert_eq!((counters.outstanding_bytes(), counters.outstanding_count()), (0, 0));
}

#[test]
fn estimates_are_marked_beside_every_number() {
    let snapshot = capture(Options { sample_bytes: Some(512 << 10), ..Options::default() }).into_snapshot(&mut resolve);
    assert!(snapshot.sampled && snapshot.sites.iter().all(|site| site.sampled));
    assert!(snapshot.processes.iter().all(|process| process.sampled));
    let exact = json(&capture(Options::default()).into_snapshot(&mut resolve), Schema::V2);
    assert!(!exact.contains("\"sampled\""));
}

#[test]
fn json_written_is_json_read() {
    let snapshot = capture(Options { show_allocs: true, ..Options::default() }).into_snapshot(&mut resolve);
    for schema in [Schema::V1, Schema::V2] {
        assert_eq!(Snapshot::from_json(json(&snapshot, schema).as_bytes()).unwrap(), snapshot, "{schema:?}");
    }
}

fn json(snapshot: &Snapshot, schema: Schema) -> String {
    serde_json::to_string(&Written { snapshot, schema, all_sites: true }).unwrap()
}

/// The same blocks, hit once in 100 bytes: one of 100 bytes stands for 158.198 and 1.58198 blocks, one of 30 for 115.749
/// and 3.858, one of 8 for 104.053 and 13.0067.
fn sample(options: Options) -> Capture {
    let options = Options { sample_bytes: Some(100), ..options };
    let weights = Weights::new(100);
    let times = |size, number| {
        let (bytes, count) = weights.of(size, None);
        (bytes * number, count * number)
    };
    let mut capture = capture(options);
    let (sixty, forty) = (times(60, 1), times(40, 1));
    capture.sites = vec![
        raw_site(0, &[0x10, 0x20], (sixty.0 + forty.0, sixty.1 + forty.1), (0, 0)),
        raw_site(1, &[0x10, 0x20], times(100, 10), times(100, 4)),
        raw_site(1, &[], times(8, 1), (0, 0)),
        raw_site(1, &[0x10, 0x20], times(30, 1), (0, 0)),
    ];
    capture.processes[1].peak_bytes = times(100, 10).0;
    capture
}

#[test]
fn blocks_of_a_sample_count_with_their_weights_and_all_sums_hold() {
    let snapshot = sample(Options { show_allocs: true, ..Options::default() }).into_snapshot(&mut resolve);
    assert_eq!(snapshot.check_sums(), Ok(()));
    let site = &snapshot.sites[0];
    assert_eq!((site.outstanding_bytes, site.outstanding_count), (1065, 13), "6 * 158.198 + 115.749, 9.492 + 3.858");
    assert_eq!((site.alloc_bytes, site.alloc_count), (1698, 20), "10 * 158.198 + 115.749, 15.820 + 3.858");
    assert_eq!((site.free_bytes, site.free_count), (633, 7));
    let server = &snapshot.processes[1];
    assert_eq!((server.outstanding_bytes, server.outstanding_count), (1169, 26), "104 in 13 without stack");
    assert_eq!(server.peak_bytes, 1582);
    let holds = |interval: Option<[u64; 2]>, number: u64| {
        let [low, high] = interval.unwrap();
        low < number && number < high
    };
    assert!(holds(site.outstanding_bytes_ci95, 1065) && holds(server.outstanding_bytes_ci95, 1169));
    assert!(holds(snapshot.outstanding_bytes_ci95, snapshot.totals().bytes));
    // 630 bytes were seen with certainty, and 8 blocks are far too few to say much more.
    assert_eq!(site.outstanding_bytes_ci95.unwrap()[0], 630);
}

#[test]
fn age_filters_an_estimate_the_same_while_tracing_and_afterwards() {
    let older_than = Duration::from_secs(5);
    let all = Options { show_allocs: true, all_sites: true, ..Options::default() };
    let traced = sample(Options { older_than, ..all.clone() }).into_snapshot(&mut resolve);
    let site = traced.sites.iter().find(|site| site.process == Some(1) && !site.stack.is_empty()).unwrap();
    assert_eq!((site.outstanding_bytes, site.outstanding_count), (432, 7), "2 * 158.198 + 115.749, 3.164 + 3.858");
    assert_eq!(traced.check_sums(), Ok(()));

    let mut filtered = sample(all).into_snapshot(&mut resolve);
    filtered.retain_older_than(older_than).unwrap();
    assert_eq!(filtered.check_sums(), Ok(()));
    filtered.sort_sites(SortKey::Bytes);
    assert_eq!(filtered, traced);
}

#[test]
fn without_its_blocks_an_estimate_states_no_interval() {
    let mut capture = sample(Options::default());
    capture.blocks = None;
    let snapshot = capture.into_snapshot(&mut resolve);
    assert!(snapshot.sampled && snapshot.outstanding_bytes_ci95.is_none());
    assert_eq!(snapshot.sites[0].outstanding_bytes_ci95, None);
    assert_eq!(snapshot.sites[0].outstanding_bytes, 1065);
}

#[test]
fn what_a_peak_was_of_is_named_though_all_of_it_is_freed() {
    let mut capture = capture(Options::default());
    let past = |live: [u64; 2]| Some(Past { born: vec![0, 1], count: vec![0, 1], live: live.to_vec() });
    capture.sites.push(RawSite { past: past([3000, 0]), ..raw_site(1, &[0x30, 0x20], (3000, 3), (3000, 3)) });
    capture.sites.push(RawSite { past: past([50, 0]), ..raw_site(1, &[0x40], (50, 1), (50, 1)) });
    let readings =
        ProcessTimeline { at_s: vec![1.0, 9.0], outstanding_bytes: vec![3500, 638], ..ProcessTimeline::default() };
    // One that is gone, and two places of one stack.
    let sites = vec![(Some(4), 3000), (None, 300), (Some(1), 150), (Some(3), 50)];
    capture.processes[1].timeline =
        Some(RawTimeline { readings, peak: Some(RawPeak { at_s: 1.0, bytes: 3500, sites }) });
    let mut asked = Vec::new();
    let snapshot = capture.into_snapshot(&mut |process: &RawProcess, stack: &[Address]| {
        asked.push(stack[0].0);
        let mut named = resolve(process, stack);
        let call = |frame: &mut Arc<Frame>| {
            let name = if frame.address.0 == 0x30 { "operator new(unsigned long)" } else { "spike" };
            Arc::make_mut(frame).function = Some(name.to_owned());
        };
        named.frames.iter_mut().for_each(call);
        named
    });
    assert!(!asked.contains(&0x40), "nobody sees what that is called: {asked:x?}");
    assert!(snapshot.sites.iter().all(crate::model::Site::is_outstanding));
    let timeline = snapshot.timeline.as_ref().unwrap();
    let peak = timeline.processes[0].peak.as_ref().unwrap();
    let id = |stack: &[u64]| SiteId::of(stack.iter().map(|address| Code::File(b"a", *address)));
    let named: Vec<_> =
        peak.sites.iter().map(|site| (site.site, site.function.as_deref(), site.outstanding_bytes)).collect();
    let listed = Some(id(&[0x10, 0x20]));
    assert_eq!(
        named,
        [
            (Some(id(&[0x30, 0x20])), Some("spike"), 3000),
            (None, None, 300),
            (listed, Some("spike"), 150),
            (listed, Some("spike"), 50)
        ]
    );
    let curve = timeline.sites.iter().find(|site| site.site == id(&[0x30, 0x20])).unwrap();
    assert_eq!(curve.outstanding_bytes, [3000, 0]);
    let text = json(&snapshot, Schema::V2);
    assert!(text.contains(r#""function":"spike","outstanding_bytes":3000"#), "{text}");
    assert_eq!(Snapshot::from_json(text.as_bytes()).unwrap().timeline, snapshot.timeline);
}
