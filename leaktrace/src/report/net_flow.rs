//! What windows show, in words: how they went, and where more is allocated than freed.

use super::human::{Bytes, Count, Rate, Span, counted};
use super::names;
use crate::model::{Bursts, ClassFlow, Finding, Flow, LEAST_WINDOWS, NetFlow, Process, Snapshot};

/// Sizes that are named for a process, at most.
const SHOWN: usize = 5;

/// What an outstanding number of such a trace stands for; `None` where every call was seen.
pub fn note(snapshot: &Snapshot) -> Option<String> {
    let Bursts { windows, window, .. } = snapshot.bursts?;
    let in_windows = counted(windows, "window");
    Some(format!("only what was allocated in {in_windows} of {} and not seen to be freed", Span(window)))
}

/// How windows went, and the net flow of each process; whether more comes than goes.
pub fn lines(snapshot: &Snapshot) -> Vec<(String, bool)> {
    let Some(bursts) = &snapshot.bursts else { return Vec::new() };
    let mut lines = vec![(windows(bursts), false)];
    for process in &snapshot.processes {
        if let Some(flow) = &process.net_flow {
            lines.extend(of_process(process, flow));
        }
    }
    lines
}

/// `windows: 12 of 1.0 s, one in 100 s; 1,234 allocations and frees seen, which cost about 0.3% of the processor time`
fn windows(bursts: &Bursts) -> String {
    let Bursts { window, period, windows, left_out, failed, calls, overhead, .. } = *bursts;
    let mut parts = vec![format!("windows: {} of {}, one in {}", Count(windows), Span(window), Span(period))];
    if left_out > 0 {
        parts.push(format!("{} left out, as no process had more memory than before", Count(left_out)));
    }
    if failed > 0 {
        parts.push(format!("{} left out, as probes were not in place in time", Count(failed)));
    }
    let cost = overhead.map(|share| format!(", which cost about {} of the processor time", Share(share)));
    parts.push(format!("{} allocations and frees seen{}", Count(calls), cost.unwrap_or_default()));
    parts.join("; ")
}

fn of_process(process: &Process, flow: &NetFlow) -> Vec<(String, bool)> {
    let NetFlow { windows, open, all, classes } = flow;
    let over = format!("{}, {} open", counted(*windows, "window"), Span(*open));
    let growing: Vec<&ClassFlow> = classes.iter().filter(|class| class.flow.finding == Finding::Grows).collect();
    let verdict = match growing.is_empty() {
        false => String::new(),
        true if *windows < LEAST_WINDOWS => {
            format!("; undecided: it takes {LEAST_WINDOWS} windows to tell flow from chance")
        }
        true => "; of no size does more come than goes beyond what can be chance".to_owned(),
    };
    let line = format!("net flow of {} ({over}): {}{verdict}", names::one(process), words(all));
    let mut lines = vec![(line, all.finding == Finding::Grows)];
    for class in growing.iter().take(SHOWN) {
        let Flow { allocs_per_s, frees_per_s, .. } = class.flow;
        let where_from = if class.recorded { "; allocated where it says below" } else { "" };
        lines.push((
            format!(
                "net flow of {}: {}; {allocs_per_s:.1} allocated and {frees_per_s:.1} freed a second{where_from}",
                sizes(class),
                words(&class.flow)
            ),
            true,
        ));
    }
    if growing.len() > SHOWN {
        let rest: f64 = growing.iter().skip(SHOWN).filter_map(|class| class.flow.net_bytes_per_s).sum();
        let more = counted((growing.len() - SHOWN) as u64, "more size");
        lines.push((format!("net flow of {more}: {}", Signed(rest, Rate(rest))), true));
    }
    lines
}

/// `+43.6 blocks/s (95%: +38.9 to +48.3), +4.1 KiB/s`
fn words(flow: &Flow) -> String {
    let Flow { net_per_s, net_ci95, net_bytes_per_s, .. } = *flow;
    let interval = net_ci95.map(|[low, high]| format!(" (95%: {low:+.1} to {high:+.1})")).unwrap_or_default();
    let bytes = net_bytes_per_s.map(|bytes| format!(", {}", Signed(bytes, Rate(bytes)))).unwrap_or_default();
    format!("{net_per_s:+.1} blocks/s{interval}{bytes}")
}

fn sizes(class: &ClassFlow) -> String {
    match class.sizes {
        None => "blocks, whose sizes are not known when they are freed".to_owned(),
        Some([least, most]) if least == most => format!("blocks of {}", Bytes(least)),
        Some([least, most]) => format!("blocks of {} to {}", Bytes(least), Bytes(most)),
    }
}

/// A number's amount in words, behind its sign.
struct Signed(f64, Rate);

impl std::fmt::Display for Signed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.0 < 0.0 { '-' } else { '+' }, self.1)
    }
}

/// A part of one: `0.31%`, `less than 0.01%`.
struct Share(f64);

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 * 100.0 {
            percent if percent < 0.01 => f.write_str("less than 0.01%"),
            percent if percent < 1.0 => write!(f, "{percent:.2}%"),
            percent => write!(f, "{percent:.1}%"),
        }
    }
}
