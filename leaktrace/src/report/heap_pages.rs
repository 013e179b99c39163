//! How the pages of heaps are used, in words: a leak, fragmentation, or memory that the allocator keeps.

use super::human::Bytes;
use super::names;
use crate::model::{HeapFinding, HeapPages, Site, Snapshot};

/// Where less was allocated during the trace, or less than a quarter, of a process whose other blocks are not known, nothing is said
/// of how it lies; bytes.
const NOTEWORTHY: u64 = 4 << 20;
/// A line for each process whose heap's pages are worth one.
pub fn lines(snapshot: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, process) in snapshot.processes.iter().enumerate() {
        let Some(heap) = &process.heap_pages else { continue };
        let whose = if snapshot.processes.len() > 1 { format!(" of {}", names::one(process)) } else { String::new() };
        let pinning = || {
            let sites = snapshot.sites.iter().filter(|site| site.process == Some(index));
            let pinning = sites.filter_map(|site| Some((site.pinned_bytes.filter(|bytes| *bytes > 0)?, site)));
            pinning.max_by_key(|(bytes, _)| *bytes)
        };
        lines.extend(line(heap, &whose, pinning));
    }
    lines
}

fn line<'a>(heap: &HeapPages, whose: &str, pinning: impl Fn() -> Option<(u64, &'a Site)>) -> Option<String> {
    let (resident, held, empty) = (Bytes(heap.resident_bytes), Bytes(heap.held_bytes), Bytes(heap.empty_bytes));
    let occupancy = percent(heap.occupancy());
    let finding = heap.finding?;
    if heap.blocks_missing && finding != HeapFinding::Retained {
        let is_thin = heap.held_bytes.saturating_sub(heap.occupied_bytes) >= heap.empty_bytes;
        let pinned = match pinning().filter(|_| finding == HeapFinding::Fragmented || is_thin) {
            Some((bytes, site)) => format!(", {} of them pinned by {} as far as is known", Bytes(bytes), name(site)),
            None => String::new(),
        };
        let is_much = heap.held_bytes >= NOTEWORTHY && heap.held_bytes >= heap.resident_bytes / 4;
        return Some(if is_much {
            format!(
                "heap pages{whose}: {held} of {resident} have allocations of this trace, at an occupancy of {occupancy} or \
                 more{pinned}; older blocks and such as were not recorded are not known, so at most {empty} are free"
            )
        } else {
            format!(
                "heap pages{whose}: {held} of {resident} have allocations of this trace; older blocks and such as were not recorded are \
                 not known, so at most {empty} are free"
            )
        });
    }
    Some(match finding {
        HeapFinding::Retained => format!(
            "heap pages{whose}: {held} of {resident} are held by outstanding allocations, at {occupancy} occupancy: memory that the \
             program has not freed"
        ),
        HeapFinding::Fragmented => {
            let pinned = match pinning() {
                Some((bytes, site)) if bytes >= heap.held_bytes / 10 * 9 => format!(", pinned by {}", name(site)),
                Some((bytes, site)) => format!(", {} of them pinned by {}", Bytes(bytes), name(site)),
                None => String::new(),
            };
            let rest = if heap.empty_bytes >= heap.resident_bytes / 4 {
                format!("; {empty} more are free, and the allocator keeps them")
            } else {
                String::new()
            };
            format!("fragmentation{whose}: {held} of heap pages at {occupancy} occupancy{pinned}{rest}")
        }
        HeapFinding::Empty if heap.malloc_trim => {
            format!(
                "heap pages{whose}: {empty} of {resident} are free, and the allocator keeps them (malloc_trim would return them)"
            )
        }
        HeapFinding::Empty => {
            format!(
                "heap pages{whose}: {empty} of {resident} are free, and the allocator keeps them, or they are mapped beside its own"
            )
        }
        HeapFinding::Undecided | HeapFinding::Unknown => return None,
    })
}

/// `6%`; below one percent with a decimal.
fn percent(part: f64) -> String {
    if part < 0.00995 { format!("{:.1}%", part * 100.0) } else { format!("{:.0}%", part * 100.0) }
}

/// The function that allocates there, with its place in the source.
fn name(site: &Site) -> String {
    let Some(frame) = site.caller() else { return names::NO_STACK.to_owned() };
    let place =
        frame.file.as_deref().zip(frame.line).map(|(file, line)| format!(" ({}:{line})", names::base_name(file)));
    format!("{}{}", names::function(frame), place.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of one process with these pages; one site pins 50 MiB and another 1 MiB.
    fn told(heap: &str) -> Vec<String> {
        let text = format!(
            r#"{{"schema":"leaktrace/1","started":"2026-01-31T12:00:00Z","elapsed_s":2,"target":{{"mode":"pid","pids":[7]}},
            "processes":[{{"pid":7,"comm":"a","outstanding_bytes":72,"outstanding_count":3,"heap_pages":{{{heap}}}}}],
            "sites":[{{"pid":7,"process":0,"outstanding_bytes":64,"outstanding_count":2,"pinned_bytes":1048576,
                "stack":[{{"function":"other","address":"0x1"}}]}},
              {{"pid":7,"process":0,"outstanding_bytes":64,"outstanding_count":2,"pinned_bytes":52428800,
                "stack":[{{"function":"operator new(unsigned long)","address":"0x1"}},
                    {{"function":"keep","file":"/src/keep.cc","line":12,"address":"0x2"}}]}}]}}"#
        );
        lines(&Snapshot::from_json(text.as_bytes()).unwrap())
    }

    fn heap(held_mib: u64, occupancy: f64, more: &str) -> String {
        let mib = 1 << 20;
        format!(
            r#""resident_bytes":{},"held_bytes":{},"empty_bytes":{},"occupancy":{occupancy}{more}"#,
            56 * mib,
            held_mib * mib,
            (56 - held_mib) * mib
        )
    }

    #[test]
    fn what_pins_the_pages_is_named_and_not_what_it_calls() {
        assert_eq!(
            told(&heap(52, 0.06, r#","finding":"fragmented""#)),
            ["fragmentation: 52.0 MiB of heap pages at 6% occupancy, pinned by keep (keep.cc:12)"]
        );
        assert_eq!(
            told(&heap(56, 0.004, r#","finding":"fragmented","blocks_missing":false"#)),
            ["fragmentation: 56.0 MiB of heap pages at 0.4% occupancy, 50.0 MiB of them pinned by keep (keep.cc:12)"]
        );
    }

    #[test]
    fn what_is_free_is_what_malloc_trim_returns_in_glibc_alone() {
        assert_eq!(
            told(&heap(1, 0.9, r#","finding":"empty","malloc_trim":true"#)),
            ["heap pages: 55.0 MiB of 56.0 MiB are free, and the allocator keeps them (malloc_trim would return them)"]
        );
        let other = told(&heap(1, 0.9, r#","finding":"empty""#));
        assert!(!other[0].contains("malloc_trim"), "{other:?}");
    }

    #[test]
    fn where_blocks_are_missing_nothing_is_said_for_certain_of_what_looks_free() {
        let told = |held, finding| told(&heap(held, 0.5, &format!(r#","blocks_missing":true,"finding":"{finding}""#)));
        for finding in ["empty", "fragmented", "undecided"] {
            let lines = told(14, finding);
            let named = "50.0 MiB of them pinned by keep (keep.cc:12) as far as is known";
            assert_eq!(lines[0].contains(named), finding == "fragmented", "{lines:?}");
            assert!(
                lines[0].contains("at an occupancy of 50% or more") && lines[0].ends_with("at most 42.0 MiB are free"),
                "{lines:?}"
            );
        }
        for finding in ["empty", "undecided"] {
            assert_eq!(
                told(13, finding),
                [
                    "heap pages: 13.0 MiB of 56.0 MiB have allocations of this trace; older blocks and such as were not recorded are not \
                  known, so at most 43.0 MiB are free"
                ]
            );
        }
        let thin = heap(50, 0.1, r#","blocks_missing":true,"finding":"undecided""#);
        assert!(super::tests::told(&thin)[0].contains("50.0 MiB of them pinned by keep"), "{thin}");
        assert!(told(50, "retained")[0].ends_with("memory that the program has not freed"));
    }

    #[test]
    fn without_a_finding_there_is_no_line() {
        assert!(told(&heap(52, 0.06, "")).is_empty());
        assert!(told(&heap(52, 0.06, r#","finding":"from the future""#)).is_empty());
    }
}
