//! How a process' resident heap pages are used: by what it has not freed, thinly, or not at all.

use serde::{Deserialize, Serialize};

/// The resident pages of a process' heap. What the words mean is said in `analysis/fragmentation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Form", into = "Form")]
pub struct HeapPages {
    /// Bytes of resident pages of the heap.
    pub resident_bytes: u64,
    /// Bytes of those that at least one outstanding block touches.
    pub held_bytes: u64,
    /// Bytes of the others: at most so many are empty where `blocks_missing`.
    pub empty_bytes: u64,
    /// Bytes of held pages that blocks lie on.
    pub occupied_bytes: u64,
    /// There may be blocks that were not recorded, as those from before the trace: on pages that look empty, too.
    pub blocks_missing: bool,
    /// The allocator is glibc's alone, whose `malloc_trim` returns empty pages.
    pub malloc_trim: bool,
    /// What it amounts to; `None` where it is not worth a word.
    pub finding: Option<HeapFinding>,
}

/// What a heap's pages amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeapFinding {
    /// Most of it is what the program has not freed.
    Retained,
    /// Most of it is thinly occupied pages.
    Fragmented,
    /// Much of it are pages without blocks, which the allocator keeps.
    Empty,
    /// It cannot be told: blocks that are not known may lie on what looks thin or empty.
    Undecided,
    /// Something that this version does not know.
    #[serde(other)]
    Unknown,
}

impl HeapPages {
    /// Notes that there may be blocks that were not recorded. They can only add to what is held: where the program holds most of it
    /// already that remains, and anything else is undecided.
    pub fn miss_blocks(&mut self) {
        self.blocks_missing = true;
        if matches!(self.finding, Some(HeapFinding::Fragmented | HeapFinding::Empty)) {
            self.finding = Some(HeapFinding::Undecided);
        }
    }

    /// The part of held pages that blocks lie on, from 0 to 1; 0 where none is held.
    #[must_use]
    pub fn occupancy(&self) -> f64 {
        if self.held_bytes == 0 { 0.0 } else { self.occupied_bytes as f64 / self.held_bytes as f64 }
    }
}

/// As it stands in a file.
#[derive(Serialize, Deserialize)]
struct Form {
    resident_bytes: u64,
    held_bytes: u64,
    empty_bytes: u64,
    occupancy: f64,
    /// Without it, by the occupancy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    occupied_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    blocks_missing: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    malloc_trim: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    finding: Option<HeapFinding>,
}

impl From<Form> for HeapPages {
    fn from(form: Form) -> Self {
        let Form { resident_bytes, held_bytes, empty_bytes, occupancy, occupied_bytes, blocks_missing, .. } = form;
        let Form { malloc_trim, finding, .. } = form;
        let occupied_bytes = occupied_bytes.unwrap_or((occupancy * held_bytes as f64).round() as u64);
        Self { resident_bytes, held_bytes, empty_bytes, occupied_bytes, blocks_missing, malloc_trim, finding }
    }
}

impl From<HeapPages> for Form {
    fn from(heap: HeapPages) -> Self {
        let occupancy = (heap.occupancy() * 1e4).round() / 1e4;
        let HeapPages { resident_bytes, held_bytes, empty_bytes, occupied_bytes, blocks_missing, .. } = heap;
        let HeapPages { malloc_trim, finding, .. } = heap;
        let occupied_bytes = Some(occupied_bytes);
        Self {
            resident_bytes,
            held_bytes,
            empty_bytes,
            occupancy,
            occupied_bytes,
            blocks_missing,
            malloc_trim,
            finding,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_are_not_known_overturn_all_but_what_is_held() {
        let after = |finding| {
            let text = r#"{"resident_bytes":16384,"held_bytes":8192,"empty_bytes":8192,"occupancy":0.25}"#;
            let mut heap = HeapPages { finding, ..serde_json::from_str(text).unwrap() };
            heap.miss_blocks();
            assert!(heap.blocks_missing);
            heap.finding
        };
        let undecided = Some(HeapFinding::Undecided);
        assert_eq!([HeapFinding::Empty, HeapFinding::Fragmented].map(Some).map(after), [undecided; 2]);
        assert_eq!([Some(HeapFinding::Retained), None].map(after), [Some(HeapFinding::Retained), None]);
    }

    #[test]
    fn what_is_written_is_read_again_and_the_occupancy_alone_will_do() {
        let heap = HeapPages {
            resident_bytes: 16384,
            held_bytes: 8192,
            empty_bytes: 8192,
            occupied_bytes: 2731,
            blocks_missing: true,
            malloc_trim: true,
            finding: Some(HeapFinding::Empty),
        };
        let text = serde_json::to_string(&heap).unwrap();
        assert!(text.contains(r#""occupancy":0.3334,"occupied_bytes":2731"#), "{text}");
        assert_eq!(serde_json::from_str::<HeapPages>(&text).unwrap(), heap);
        let text = r#"{"resident_bytes":16384,"held_bytes":8192,"empty_bytes":8192,"occupancy":0.25,"finding":"odd"}"#;
        let read: HeapPages = serde_json::from_str(text).unwrap();
        assert_eq!((read.occupied_bytes, read.blocks_missing, read.finding), (2048, false, Some(HeapFinding::Unknown)));
    }
}
