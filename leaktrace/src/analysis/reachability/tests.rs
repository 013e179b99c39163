//! Verdicts on memory that is an array of words.

use super::edges::Part;
use super::*;
use crate::model::Reachability::{self, *};

/// Where the memory begins: heap, then variables.
const HEAP: u64 = 0x5555_0000_0000;
const VARIABLES: u64 = 0x7fff_0000_0000;
/// Where vtables are.
const VTABLES: std::ops::Range<u64> = 0x4000_0000..0x4000_1000;

/// Memory by address, in words.
pub(super) struct Words(pub(super) Vec<(u64, Vec<u64>)>);

impl Memory for Words {
    fn read(&self, address: u64, words: &mut [u64]) -> u64 {
        let mut unread = 0;
        for (word, at) in words.iter_mut().zip((address..).step_by(8)) {
            let content =
                self.0.iter().find_map(|(start, content)| content.get((at.checked_sub(*start)? / 8) as usize));
            *word = content.copied().unwrap_or_default();
            unread += if content.is_none() { 8 } else { 0 };
        }
        unread
    }
}

/// A process: its heap from [`HEAP`] on, its variables from [`VARIABLES`] on.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) heap: Vec<u64>,
    /// Offset in the heap and size in bytes.
    blocks: Vec<(u64, u64)>,
    variables: Vec<u64>,
    registers: Vec<u64>,
    between: Standing,
    /// The variables are glibc's.
    has_chunks: bool,
    heuristics: Heuristics,
}

impl Process {
    /// Blocks of three words each, 32 bytes apart, with these words.
    pub(super) fn with(blocks: &[[u64; 3]], variables: &[u64]) -> Self {
        let heap = blocks.iter().flat_map(|words| words.iter().copied().chain([0])).collect();
        let blocks = (0..blocks.len() as u64).map(|number| (number * 32, 24)).collect();
        let (variables, registers) = (variables.to_vec(), Vec::new());
        let (between, heuristics) = (Standing::Ignored, Heuristics::ALL);
        Self { heap, blocks, variables, registers, between, has_chunks: false, heuristics }
    }

    pub(super) fn scan(&self, threads: usize) -> (Blocks, Scan) {
        let region = |start: u64, words: &[u64], outside| Region {
            range: start..start + words.len() as u64 * 8,
            outside,
            holds_chunks: self.has_chunks,
        };
        let regions = [region(HEAP, &self.heap, self.between), region(VARIABLES, &self.variables, Standing::Vouches)];
        let memory = Words(vec![(HEAP, self.heap.clone()), (VARIABLES, self.variables.clone())]);
        let rules = Rules { heuristics: self.heuristics, guard: None, vtables: &[VTABLES], threads };
        let blocks = Blocks::new(self.blocks.iter().map(|(at, size)| (HEAP + at, *size))).unwrap();
        let scan = scan(&blocks, &regions, &self.registers, &memory, &rules);
        assert_eq!((scan.scanned, scan.unread), ((self.heap.len() + self.variables.len()) as u64 * 8, 0));
        (blocks, scan)
    }

    fn kinds(&self) -> Vec<Reachability> {
        let (blocks, scan) = self.scan(1);
        judge(&blocks, &scan, self.heuristics, &|address| address == 0x4000_0010).kinds
    }
}

/// The address of the block with this number.
pub(super) fn at(block: u64) -> u64 {
    HEAP + block * 32
}

fn kinds(blocks: &[[u64; 3]], variables: &[u64]) -> Vec<Reachability> {
    Process::with(blocks, variables).kinds()
}

#[test]
fn a_block_is_lost_unless_a_variable_or_a_reachable_block_points_to_its_start() {
    let blocks = [[0; 3], [0, at(2), 0], [0; 3], [0; 3]];
    assert_eq!(kinds(&blocks, &[at(1)]), [DefinitelyLost, StillReachable, StillReachable, DefinitelyLost]);
}

#[test]
fn a_pointer_into_a_block_makes_it_and_all_that_it_points_to_possibly_lost() {
    let blocks = [[at(1), 0, 0], [0; 3], [0; 3], [0; 3]];
    assert_eq!(kinds(&blocks, &[at(0) + 16, at(2) + 23]), [PossiblyLost, PossiblyLost, PossiblyLost, DefinitelyLost]);
    let one_past = at(3) + 24;
    assert_eq!(kinds(&blocks, &[one_past])[3], DefinitelyLost);
}

#[test]
fn a_pointer_to_the_start_is_worth_more_than_one_into_the_block_wherever_it_is_met() {
    let blocks = [[at(1), 0, 0], [0; 3]];
    assert_eq!(kinds(&blocks, &[at(0) + 16, at(0)]), [StillReachable; 2]);
    assert_eq!(kinds(&blocks, &[at(0) + 16, at(1)]), [PossiblyLost, StillReachable]);
}

#[test]
fn what_a_lost_block_points_to_is_indirectly_lost() {
    let chain = [[at(1), 0, 0], [0, at(2) + 8, 0], [0; 3]];
    assert_eq!(kinds(&chain, &[]), [DefinitelyLost, IndirectlyLost, IndirectlyLost]);
    let backwards = [[0; 3], [at(0), 0, 0], [at(1), 0, 0]];
    assert_eq!(kinds(&backwards, &[]), [IndirectlyLost, IndirectlyLost, DefinitelyLost]);
    let shared = [[at(2), 0, 0], [at(2), 0, 0], [0; 3]];
    assert_eq!(kinds(&shared, &[]), [DefinitelyLost, DefinitelyLost, IndirectlyLost]);
}

#[test]
fn of_a_cycle_the_lowest_address_is_definitely_lost() {
    let cycle = [[at(1), 0, 0], [at(2), 0, 0], [at(0), 0, 0]];
    assert_eq!(kinds(&cycle, &[]), [DefinitelyLost, IndirectlyLost, IndirectlyLost]);
    assert_eq!(kinds(&[[at(0), 0, 0]], &[]), [DefinitelyLost], "one that points to itself");
    let reached_later = [[at(1), 0, 0], [at(0), 0, 0], [at(0), 0, 0]];
    assert_eq!(kinds(&reached_later, &[]), [IndirectlyLost, IndirectlyLost, DefinitelyLost]);
    // memcheck does not follow what an earlier leader points to once more.
    let through_a_member = [[at(1), 0, 0], [at(0), 0, 0], [at(1), 0, 0]];
    assert_eq!(kinds(&through_a_member, &[]), [DefinitelyLost, IndirectlyLost, DefinitelyLost]);
}

#[test]
fn registers_vouch_as_variables_do() {
    let mut process = Process::with(&[[0; 3], [0; 3]], &[]);
    process.registers = vec![7, at(1)];
    assert_eq!(process.kinds(), [DefinitelyLost, StillReachable]);
    assert_eq!(process.scan(1).1.roots, [Root { block: 1, part: Part::Start, at: Place::Given(1) }]);
}

#[test]
fn memory_between_blocks_says_nothing_or_nothing_certain() {
    let mut process = Process::with(&[[0; 3], [at(2), 0, 0], [0; 3], [0; 3]], &[at(3)]);
    process.heap[3] = at(1);
    process.heap[7] = at(3);
    assert_eq!(process.kinds(), [DefinitelyLost, DefinitelyLost, IndirectlyLost, StillReachable]);
    process.between = Standing::Undecided;
    assert_eq!(process.kinds(), [DefinitelyLost, Undecided, Undecided, StillReachable]);
    process.between = Standing::Doubts;
    assert_eq!(process.kinds(), [DefinitelyLost, PossiblyLost, PossiblyLost, StillReachable]);
    process.between = Standing::Vouches;
    assert_eq!(process.kinds(), [DefinitelyLost, StillReachable, StillReachable, StillReachable]);
}

#[test]
fn pointers_to_the_chunk_behind_a_block_are_the_allocators() {
    // A block of glibc's that uses all of its chunk: the next chunk begins in its last eight bytes.
    let mut process = Process::with(&[[0; 3], [0; 3]], &[at(0) + 16, at(1) + 8]);
    assert_eq!(process.kinds(), [PossiblyLost, PossiblyLost]);
    process.has_chunks = true;
    assert_eq!(process.kinds(), [DefinitelyLost, PossiblyLost]);
    process.blocks[0].1 = 20;
    assert_eq!(process.kinds(), [DefinitelyLost, PossiblyLost]);
    process.blocks[0].1 = 25;
    assert_eq!(process.kinds(), [PossiblyLost, PossiblyLost], "a block with more behind the place than a header has");
}

#[test]
fn a_block_of_no_bytes_has_a_start() {
    let mut process = Process::with(&[[0; 3], [0; 3]], &[at(0), at(1) + 1]);
    process.blocks = vec![(0, 0), (32, 0)];
    assert_eq!(process.kinds(), [StillReachable, DefinitelyLost]);
}

#[test]
fn words_that_a_block_has_in_part_are_not_its_own() {
    let mut process = Process::with(&[[0, 0, at(1)], [0; 3]], &[at(0)]);
    process.blocks[0].1 = 23;
    assert_eq!(process.kinds(), [StillReachable, DefinitelyLost]);
    process.blocks[0] = (4, 20);
    process.variables = vec![at(0) + 4];
    process.heap[0] = at(1);
    process.heap[2] = 0;
    assert_eq!(process.kinds(), [StillReachable, DefinitelyLost]);
}

#[test]
fn disguised_pointers_are_possible_ones() {
    let tagged = 0xff00_0000_0000_0000 | at(0);
    let [first, second] = [at(1) << 32 | 7, at(1) >> 32];
    assert_eq!(kinds(&[[0; 3], [0; 3]], &[tagged, first, second]), [PossiblyLost; 2]);
    assert_eq!(kinds(&[[0; 3], [0; 3]], &[at(0) | 1]), [PossiblyLost, DefinitelyLost]);
}

#[test]
fn heuristics_make_pointers_into_blocks_as_good_as_to_their_start() {
    // An array of two objects of eight bytes; as many bytes as the first word says; a string of reference counts.
    let array = [[2, 0, 0]];
    let length = [[16, at(1), 0], [0; 3]];
    assert_eq!(kinds(&array, &[at(0) + 8]), [StillReachable]);
    assert_eq!(kinds(&length, &[at(0) + 8]), [StillReachable; 2]);
    let mut process = Process::with(&[[0; 3], [0; 3]], &[at(0) + 24]);
    process.blocks = vec![(0, 24 + 7 + 1)];
    process.heap[..4].copy_from_slice(&[5, 7, 0, 0]);
    assert_eq!(process.kinds(), [StillReachable]);
    process.heuristics = Heuristics::NONE;
    assert_eq!(process.kinds(), [PossiblyLost]);
    let through_a_block = [[at(1) + 8, 0, 0], [2, 0, 0]];
    assert_eq!(kinds(&through_a_block, &[at(0)]), [StillReachable; 2]);
}

#[test]
fn a_pointer_to_a_base_class_is_as_good_as_one_to_the_start() {
    let (vtable, text) = (0x4000_0010, 0x4000_0020);
    let object = [[vtable, 0, vtable]];
    assert_eq!(kinds(&object, &[at(0) + 16]), [StillReachable]);
    assert_eq!(kinds(&[[vtable, vtable, 0]], &[at(0) + 8]), [StillReachable]);
    assert_eq!(kinds(&object, &[at(0) + 8]), [PossiblyLost], "no vtable there");
    assert_eq!(kinds(&[[vtable, 0, text]], &[at(0) + 16]), [PossiblyLost], "no vtable there");
    assert_eq!(kinds(&[[text, 0, vtable]], &[at(0) + 16]), [PossiblyLost], "no vtable at the start");
    let several = Process::with(&object, &[at(0) + 16, at(0) + 17]);
    assert_eq!(several.kinds(), [PossiblyLost], "which of the pointers is the good one is not known");
    let (_, scan) = Process::with(&object, &[]).scan(1);
    assert_eq!(scan.vtables[0], findings::Vtable { block: 0, offset: 0, address: vtable });
}

#[test]
fn every_word_that_vouches_is_kept() {
    let (_, scan) = Process::with(&[[0; 3], [0; 3]], &[at(0), at(0), at(1) + 8, at(0)]).scan(1);
    let root = |block, part, word: u64| Root { block, part, at: Place::Memory(VARIABLES + word * 8) };
    let inside = root(1, Part::At8, 2);
    assert_eq!(scan.roots, [root(0, Part::Start, 0), root(0, Part::Start, 1), inside, root(0, Part::Start, 3)]);
    assert_eq!(scan.roots_left_out, 0);
}

#[test]
fn memory_that_cannot_be_read_is_counted_and_the_rest_is_read() {
    let blocks = Blocks::new([(HEAP, 64), (HEAP + 0x3000, 64)]).unwrap();
    let second = [[at(0), 0].as_slice(), &[0; 510]].concat();
    let memory = Words(vec![(HEAP, vec![0; 512]), (HEAP + 0x3000, second)]);
    let region = Region { range: HEAP..HEAP + 0x4000, outside: Standing::Ignored, holds_chunks: false };
    let rules = Rules { heuristics: Heuristics::NONE, guard: None, vtables: &[], threads: 1 };
    let scan = scan(&blocks, &[region], &[HEAP + 0x3000], &memory, &rules);
    assert_eq!((scan.scanned, scan.unread), (0x2000, 0x2000));
    assert_eq!(judge(&blocks, &scan, Heuristics::NONE, &|_| false).kinds, [StillReachable; 2]);
}

#[test]
fn a_block_larger_than_what_is_read_at_once_speaks_with_all_of_its_words() {
    // 3 MiB in one block; at its end a pointer, and one that lies in the last word of a piece and the first of the next.
    let words = 3 << 17;
    let mut heap = vec![0; words + 8];
    heap[words - 1] = HEAP + words as u64 * 8;
    let second = HEAP + words as u64 * 8 + 32;
    (heap[(1 << 17) - 1], heap[1 << 17]) = (second << 32, second >> 32);
    let mut process = Process::with(&[], &[HEAP]);
    process.blocks = vec![(0, words as u64 * 8), (words as u64 * 8, 16), (words as u64 * 8 + 32, 16)];
    process.heap = heap;
    assert_eq!(process.kinds(), [StillReachable, StillReachable, PossiblyLost]);
}

/// Marks a block, and what it points to, as reachable or possibly lost.
fn spread(block: usize, good: bool, kinds: &mut Vec<Option<Reachability>>, next: &dyn Fn(usize) -> Vec<(usize, bool)>) {
    let kind = if good { StillReachable } else { PossiblyLost };
    if kinds[block] == Some(StillReachable) || kinds[block] == Some(kind) {
        return;
    }
    kinds[block] = Some(kind);
    for (to, start) in next(block) {
        spread(to, good && start, kinds, next);
    }
}

/// memcheck's algorithm once more, as its manual words it, without tables and passes.
fn plainly(process: &Process) -> Vec<Reachability> {
    let blocks = &process.blocks;
    let find = |word: u64| {
        let offset = word.checked_sub(HEAP)?;
        let block = blocks.iter().position(|(at, size)| (*at..at + size.max(&1)).contains(&offset))?;
        Some((block, offset == blocks[block].0))
    };
    let words = |block: usize| {
        let (at, size) = blocks[block];
        (at.next_multiple_of(8)..(at + size) / 8 * 8).step_by(8).map(|at| process.heap[(at / 8) as usize])
    };
    let mut kinds = vec![None; blocks.len()];
    let next = |block: usize| words(block).filter_map(find).collect::<Vec<_>>();
    for (block, start) in process.variables.iter().copied().filter_map(find) {
        spread(block, start, &mut kinds, &next);
    }
    for leader in 0..blocks.len() {
        if kinds[leader].is_some() {
            continue;
        }
        kinds[leader] = Some(DefinitelyLost);
        let mut ahead = vec![leader];
        while let Some(block) = ahead.pop() {
            for (to, _) in next(block) {
                if to != leader && matches!(kinds[to], None | Some(DefinitelyLost)) {
                    kinds[to] = Some(IndirectlyLost);
                    ahead.push(to);
                }
            }
        }
    }
    kinds.into_iter().flatten().collect()
}

proptest::proptest! {
    #[test]
    fn any_heap_is_judged_as_memcheck_words_it(
        sizes in proptest::collection::vec((0u64..80, 0u64..3), 1..30),
        words in proptest::collection::vec((0usize..30, 0u64..4, 0u64..90), 300),
        roots in proptest::collection::vec((0usize..30, 0u64..2, 0u64..90), 0..6),
        threads in 1usize..3,
    ) {
        let (mut blocks, mut end) = (Vec::new(), 0);
        for (size, gap) in sizes {
            blocks.push((end, size));
            end = (end + size.max(1)).next_multiple_of(8) + gap * 8;
        }
        // Half of the words are pointers, half of these to a start.
        let word = |&(block, kind, offset): &(usize, u64, u64)| {
            let (at, _) = blocks[block % blocks.len()];
            match kind {
                0 => HEAP + at,
                1 => HEAP + at + offset,
                _ => 0,
            }
        };
        let mut process = Process::with(&[], &roots.iter().map(word).collect::<Vec<_>>());
        process.heap = (0..end / 8).map(|at| words.get(at as usize).map_or(0, word)).collect();
        process.blocks = blocks.clone();
        process.heuristics = Heuristics::NONE;
        let (index, scan) = process.scan(threads);
        let judged = judge(&index, &scan, Heuristics::NONE, &|_| false).kinds;
        proptest::prop_assert_eq!(judged, plainly(&process));
    }
}
