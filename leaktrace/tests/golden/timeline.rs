//! Memory over time: the picture of one trace of two processes, of none, and of lists that hold anything.

use std::sync::Arc;
use std::time::Duration;

use leaktrace::model::{
    EventKind, Peak, PeakSite, Pid, Process, ProcessTimeline, Site, SiteTimeline, Snapshot, Timeline, TimelineEvent,
};
use leaktrace::report::timeline;
use proptest::prelude::*;

use super::{assert_golden, fixture, golden, rendered, svg_texts};

fn followed() -> Snapshot {
    Snapshot::from_json(&std::fs::read(golden("timeline.json")).unwrap()).unwrap()
}

fn texts(snapshot: &Snapshot) -> Vec<String> {
    svg_texts(&rendered(|out| timeline::write(snapshot, out)))
}

#[test]
fn memory_over_time_is_a_panel_for_each_process() {
    let svg = rendered(|out| timeline::write(&followed(), out));
    assert_golden("timeline.svg", &svg);
    let texts = svg_texts(&svg);
    let says = |words: &str| assert!(texts.iter().any(|text| text.contains(words)), "{words}: {texts:#?}");
    // The leak comes first though the other process holds more.
    let place = |words: &str| texts.iter().position(|text| text.starts_with(words)).unwrap();
    assert!(place("server (pid 1234): 640.0 KiB outstanding") < place("worker<&> (pid 1240, ended): 2.0 MiB"));
    says("leaks 8.0 KiB/s at handle_request: blocks stay");
    says("8.0 KiB lost");
    says("512.0 KiB, leaks 8.0 KiB/s");
    says("lost: 1,200 allocations");
    says("most at a reading: 640.0 KiB at 1 min, 384.0 KiB of it at handle_request; peak 700.0 KiB");
    says("peak 2.0 MiB at 10 s");
    says("Not drawn: 3 processes with 100 B outstanding.");
    for words in ["RSS", "PSS", "swap", "exec", "exit", "leak check", "other sites", "allocated per second"] {
        assert!(texts.iter().any(|text| text == words), "{words}");
    }
    assert!(svg.contains(r##"fill="#c2320e""##), "what leaks has a warm colour");
}

#[test]
fn what_held_the_peak_has_its_name_though_it_is_freed() {
    let mut snapshot = followed();
    let gone = snapshot.sites.remove(0).id.unwrap();
    let of = &mut snapshot.timeline.as_mut().unwrap().processes[1];
    let site = PeakSite { site: Some(gone), function: Some("spike<&>\u{1b}".to_owned()), outstanding_bytes: 2_000_000 };
    of.peak = Some(Peak { at_s: 10.0, outstanding_bytes: 2_097_152, sites: vec![site] });
    let said = texts(&snapshot);
    let says = |words: &str| assert!(said.iter().any(|text| text == words), "{words}: {said:#?}");
    says("spike<&>?");
    says("peak 2.0 MiB at 10 s, 1.9 MiB of it at spike<&>?");
    // A file of an earlier version has no names.
    snapshot.timeline.as_mut().unwrap().processes[1].peak.as_mut().unwrap().sites[0].function = None;
    let said = texts(&snapshot);
    assert!(said.iter().any(|text| text == "a site that is not listed"), "{said:#?}");
}

#[test]
fn bands_are_the_largest_sites_and_the_two_fastest_leaks() {
    let mut snapshot = followed();
    let (large, leak) = (snapshot.sites[0].clone(), snapshot.sites[1].growth.clone());
    snapshot.sites.truncate(1);
    let timeline = snapshot.timeline.as_mut().unwrap();
    // The fastest leak has least.
    for number in 1..=7 {
        let id = serde_json::from_str(&format!("\"00000000000000{number:02}\"")).unwrap();
        let mut site = Site { id: Some(id), growth: leak.clone(), outstanding_bytes: number, ..large.clone() };
        site.growth.as_mut().unwrap().bytes_per_s /= number as f64;
        for frame in &mut site.stack {
            Arc::make_mut(frame).function = Some(format!("small_{number}"));
        }
        snapshot.sites.push(site);
        timeline.sites.push(SiteTimeline { process: 1, site: id, outstanding_bytes: vec![number; 4] });
    }
    snapshot.processes = vec![snapshot.processes[1].clone()];
    timeline.processes.remove(0);
    timeline.processes[0].process = 0;
    timeline.sites.retain(|site| site.process == 1);
    timeline.sites.iter_mut().for_each(|site| site.process = 0);
    snapshot.sites.iter_mut().for_each(|site| site.process = Some(0));
    let said = texts(&snapshot);
    let has = |name: &str| said.iter().any(|text| text.starts_with(name));
    assert!(has("std::map<"), "the largest: {said:#?}");
    let small = (1..=7).map(|number| has(&format!("small_{number}"))).collect::<Vec<_>>();
    assert_eq!(small, [true, true, false, false, true, true, true], "{said:#?}");
}

#[test]
fn a_trace_that_did_not_follow_memory_says_so() {
    let texts = texts(&fixture());
    assert!(texts.iter().any(|text| text == "Memory was not followed over time."), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("lost: 1,200 allocations")), "{texts:?}");
}

#[test]
fn hostile_names_leave_the_picture_well_formed() {
    let mut snapshot = followed();
    snapshot.processes[0].comm = "]]>\u{1b}<script>\"'&amp;".to_owned();
    Arc::make_mut(&mut snapshot.sites[0].stack[0]).function = Some("--></title>\u{0}\n".repeat(200));
    snapshot.processes[0].growth.as_mut().unwrap().reason = "</text>\u{202e}".into();
    let texts = texts(&snapshot);
    assert!(texts.iter().any(|text| text.starts_with("]]>?<script>\"'&amp; (pid 1234): ")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("--></title>??-->")), "{texts:?}");
}

#[test]
fn no_more_than_six_processes_have_panels() {
    let mut snapshot = followed();
    let one = (snapshot.processes[1].clone(), snapshot.timeline.as_ref().unwrap().processes[1].clone());
    for _ in 0..20 {
        let place = snapshot.processes.len();
        snapshot.processes.push(one.0.clone());
        snapshot.timeline.as_mut().unwrap().processes.push(ProcessTimeline { process: place, ..one.1.clone() });
    }
    let texts = texts(&snapshot);
    assert_eq!(texts.iter().filter(|text| text.contains("outstanding at the end")).count(), 6);
    let not_drawn = "Not drawn: 19 processes with 32.0 MiB outstanding, 2.0 MiB of it by worker<&> (pid 1240, ended).";
    assert!(texts.iter().any(|text| text == not_drawn), "{texts:?}");
}

/// The tick, which says that a process is steady.
const TICK: &str = "M8 18L14.5 24.5L26.5 10";

#[test]
fn the_processes_that_ever_had_most_are_drawn_and_all_is_well_only_where_the_rest_is_less() {
    let mut snapshot = followed();
    assert!(rendered(|out| timeline::write(&snapshot, out)).contains(TICK));
    // Processes that hold more by now, of which one had 64 MiB and has freed it.
    for (number, peak) in [(1, 4), (2, 5), (3, 6), (4, 7), (5, 8), (6, 64)] {
        let place = snapshot.processes.len();
        let of = ProcessTimeline { process: place, ..snapshot.timeline.as_ref().unwrap().processes[1].clone() };
        snapshot.timeline.as_mut().unwrap().processes.push(of);
        snapshot.processes.push(Process {
            pid: Pid(2000 + number),
            outstanding_bytes: if peak == 64 { 1 } else { 3 << 20 },
            peak_bytes: peak << 20,
            ..snapshot.processes[1].clone()
        });
    }
    let said = texts(&snapshot);
    let drawn = |pid: &str| said.iter().any(|text| text.contains(pid) && text.contains(" outstanding at the end"));
    assert!(drawn("pid 2006") && drawn("pid 1234") && !drawn("pid 1240") && !drawn("pid 2001"), "{said:#?}");
    // One that is not followed holds more than all of them.
    snapshot.processes[2].outstanding_bytes = 1 << 30;
    let svg = rendered(|out| timeline::write(&snapshot, out));
    assert!(!svg.contains(TICK), "a tick for what is the least part");
    let texts = svg_texts(&svg);
    assert!(texts.iter().any(|text| text.contains("1.0 GiB of it by sh (3 times, ended)")), "{texts:?}");
}

/// Moments as a hostile file has them, or as a trace does.
fn moments() -> impl Strategy<Value = Vec<f64>> {
    let any = proptest::collection::vec(proptest::num::f64::ANY, 0..5);
    let rising = (0usize..240, 1e-3..1e5f64).prop_map(|(count, step)| (0..count).map(|at| at as f64 * step).collect());
    prop_oneof![any, rising]
}

fn amounts() -> impl Strategy<Value = Vec<u64>> {
    let amount = prop_oneof![Just(0), 0..10_000u64, any::<u64>(), Just(u64::MAX), Just(1_000_000_000_000_000)];
    proptest::collection::vec(amount, 0..242)
}

fn known() -> impl Strategy<Value = Vec<Option<u64>>> {
    proptest::collection::vec(proptest::option::of(any::<u64>()), 0..6)
}

fn process() -> impl Strategy<Value = ProcessTimeline> {
    let place = prop_oneof![0..3usize, any::<usize>()];
    (place, moments(), amounts(), amounts(), known(), known(), known(), any::<f64>(), any::<bool>()).prop_map(
        |(process, at_s, outstanding_bytes, alloc_bytes, rss_bytes, pss_bytes, swap_bytes, at, has_peak)| {
            let peak = Peak { at_s: at, outstanding_bytes: u64::MAX, sites: Vec::new() };
            let uss_bytes = Vec::new();
            let peak = has_peak.then_some(peak);
            ProcessTimeline {
                process,
                at_s,
                outstanding_bytes,
                alloc_bytes,
                rss_bytes,
                pss_bytes,
                uss_bytes,
                swap_bytes,
                peak,
            }
        },
    )
}

fn event() -> impl Strategy<Value = TimelineEvent> {
    let kind = prop_oneof![Just(EventKind::Exec), Just(EventKind::Exit), Just(EventKind::LeakCheck)];
    (0..u64::MAX, kind).prop_map(|(at, kind)| TimelineEvent { at: Duration::from_micros(at), pid: Pid(1234), kind })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_timeline_is_a_well_formed_picture(
        processes in proptest::collection::vec(process(), 0..9),
        sites in proptest::collection::vec((0..3usize, 0..3usize, amounts()), 0..12),
        events in proptest::collection::vec(event(), 0..300),
    ) {
        let mut snapshot = followed();
        let ids: Vec<_> = snapshot.sites.iter().filter_map(|site| site.id).collect();
        let sites = sites
            .into_iter()
            .map(|(process, id, outstanding_bytes)| SiteTimeline { process, site: ids[id], outstanding_bytes })
            .collect();
        snapshot.timeline = Some(Timeline { processes, sites, events });
        let svg = rendered(|out| timeline::write(&snapshot, out));
        svg_texts(&svg);
        prop_assert!(!svg.contains("NaN") && !svg.contains("inf "), "no number is without a place");
        prop_assert!(svg.len() < 2_000_000);
    }
}
