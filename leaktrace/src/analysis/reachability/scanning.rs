//! One pass over a process' memory, which keeps what its words point to.
//!
//! Memory is read in pieces by several threads, each word once, so that the process need not be stopped for longer than reading
//! takes. What belongs together (a block may lie in several pieces) is joined afterwards.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::blocks::Blocks;
use super::edges::{Edges, Part, Piece as EdgesOfPiece};
use super::findings::{SEVERAL, Scan, Vtable, found};
use super::glibc;
use super::heuristics::Heuristics;
use super::memory::{Memory, Region, Standing};
use super::pointers::{Picked, Reader, Target, Words};
use super::roots::{Place, Root, Roots, room_for};
use crate::process::memory::Buffer;

/// Bytes that one thread reads at once: they fit into a processor's second cache.
const PIECE: u64 = 256 << 10;
/// A page, or a part of one.
const PAGE: u64 = 4096;
const WORD: u64 = 8;
/// How many words of a block are kept as possible addresses of vtables.
const MAX_VTABLES: usize = 8;

/// How words are read.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Which pointers into a block are as good as one to its start.
    pub heuristics: Heuristics,
    /// glibc's `pointer_chk_guard`, with which it mangles pointers in a `jmp_buf`.
    pub guard: Option<u64>,
    /// Where vtables may be, in ascending order.
    pub vtables: &'a [Range<u64>],
    /// How many threads read.
    pub threads: usize,
}

/// Reads all regions, disjoint and in ascending order, once. `given` are words from outside of memory, such as registers, which
/// vouch.
pub fn scan(blocks: &Blocks, regions: &[Region], given: &[u64], memory: &dyn Memory, rules: &Rules<'_>) -> Scan {
    let pieces = pieces(regions);
    let found: Vec<AtomicU8> = std::iter::repeat_with(AtomicU8::default).take(blocks.len()).collect();
    let with_inner = rules.heuristics.multipleinheritance && !rules.vtables.is_empty();
    let inner = if with_inner { blocks.len() } else { 0 };
    let inner: Vec<AtomicU32> = std::iter::repeat_with(AtomicU32::default).take(inner).collect();
    let reader = Reader::new(blocks, rules.guard);
    let more_roots = AtomicUsize::new(room_for(blocks.len()));
    let scanner = Scanner { blocks, memory, rules, reader, found: &found, inner: &inner, more_roots: &more_roots };

    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(pieces.len())));
    let work = || {
        let mut room = Room::new();
        let mut own = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(number) else { break };
            own.push((number, scanner.piece(piece, &mut room)));
        }
        done.lock().unwrap_or_else(PoisonError::into_inner).append(&mut own);
    };
    thread::scope(|scope| {
        for _ in 1..rules.threads.max(1) {
            scope.spawn(work);
        }
        work();
    });

    let mut scan = Scan::default();
    let mut outside = scanner.new_roots();
    let mut near = Picked::new();
    let mut add = |_, position, target| scanner.root(target, Place::Given(position), &mut outside);
    let mut bits = Vec::new();
    reader.sift(given, &mut bits);
    reader.read(&mut near, 0, Words { all: given, bits: &bits }, 0..given.len(), false, &mut add);
    reader.find(&mut near, &mut add);
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(number, _)| *number);
    let mut edges = Vec::with_capacity(done.len());
    for (number, mut contents) in done {
        if contents.own_at_end {
            scanner.follow_own(&pieces[number + 1..], &mut contents.roots);
        }
        outside.join(&mut contents.roots);
        scan.vtables.append(&mut contents.vtables);
        scan.scanned += contents.scanned;
        scan.unread += contents.unread;
        edges.push(contents.edges);
    }
    scan.edges = Edges::join(edges, blocks.len());
    (scan.roots, scan.roots_left_out) = (outside.list, outside.left_out);
    scan.found = found.into_iter().map(AtomicU8::into_inner).collect();
    scan.inner = inner.into_iter().map(AtomicU32::into_inner).collect();
    scan
}

/// A part of a region.
struct Piece {
    range: Range<u64>,
    /// The region goes on before it.
    has_word_before: bool,
    outside: Standing,
    holds_chunks: bool,
}

impl Piece {
    /// All of it but blocks is the allocator's.
    fn is_allocators(&self) -> bool {
        self.outside == Standing::Ignored && self.holds_chunks
    }
}

fn pieces(regions: &[Region]) -> Vec<Piece> {
    let cut = |region: &Region| {
        let Region { range: Range { start, end }, outside, holds_chunks } = *region;
        let piece = move |from| Piece {
            range: from..end.min(from.saturating_add(PIECE)),
            has_word_before: from > start,
            outside,
            holds_chunks,
        };
        (start..end).step_by(PIECE as usize).map(piece)
    };
    regions.iter().flat_map(cut).collect()
}

/// What one thread uses again for each piece.
struct Room {
    /// For a piece, the word before, and a page.
    buffer: Buffer,
    /// Which of these words are worth a look.
    bits: Vec<u64>,
    /// Of words in blocks.
    inside: Picked,
    /// Of other words.
    outside: Picked,
}

impl Room {
    fn new() -> Self {
        let buffer = Buffer::new((PIECE + 2 * PAGE) as usize);
        Self { buffer, bits: Vec::new(), inside: Picked::new(), outside: Picked::new() }
    }
}

/// What a piece of memory holds.
#[derive(Default)]
struct Contents {
    edges: EdgesOfPiece,
    roots: Roots,
    vtables: Vec<Vtable>,
    scanned: u64,
    unread: u64,
    /// The piece ends with memory that the program took from the break.
    own_at_end: bool,
}

/// What was read of a process' memory.
#[derive(Clone, Copy)]
struct Copied<'a> {
    /// Address of the first word.
    from: u64,
    /// Where the piece begins, whose words these are, with perhaps the word before it.
    begin: u64,
    words: Words<'a>,
}

impl Copied<'_> {
    fn places(&self, range: &Range<u64>) -> Range<usize> {
        let place = |address: u64| ((address - self.from) / WORD) as usize;
        place(range.start)..place(range.end)
    }

    fn words(&self, range: &Range<u64>) -> &[u64] {
        &self.words.all[self.places(range)]
    }

    fn address(&self, place: usize) -> u64 {
        self.from + place as u64 * WORD
    }
}

struct Scanner<'a> {
    blocks: &'a Blocks,
    memory: &'a dyn Memory,
    rules: &'a Rules<'a>,
    reader: Reader<'a>,
    found: &'a [AtomicU8],
    inner: &'a [AtomicU32],
    /// How many roots may be kept beside the first ones, as far as pieces were read.
    more_roots: &'a AtomicUsize,
}

impl Scanner<'_> {
    /// Reads a piece.
    fn piece(&self, piece: &Piece, Room { buffer, bits, inside, outside }: &mut Room) -> Contents {
        let Range { start, end } = piece.range;
        let from = if piece.has_word_before { start - WORD } else { start };
        // Where in a page the copy begins is where the original does: else copying is slow.
        let at = (from % PAGE / WORD) as usize;
        let all = &mut buffer[at..][..((end - from) / WORD) as usize];
        let unread = self.memory.read(from, all).min(end - start);
        self.reader.sift(all, bits);
        let near: usize = bits.iter().map(|bits| bits.count_ones() as usize).sum();
        let first = self.blocks.first_behind(start) as u32;
        let has_blocks = (first as usize) < self.blocks.len() && self.blocks.start(first) < end;
        let near = if has_blocks { near } else { 0 };
        let mut contents = Contents {
            edges: EdgesOfPiece::with_room(near, self.blocks.within(&piece.range).len() + 1),
            roots: self.new_roots(),
            scanned: end - start - unread,
            unread,
            ..Contents::default()
        };
        let copied = Copied { from, begin: start, words: Words { all, bits } };
        let room = contents.roots.room;
        self.stretches(piece, copied, [inside, outside], &mut contents);
        self.reader.find(inside, &mut |block, _, target| self.edge(block, target, &mut contents.edges));
        let taken = room - contents.roots.room;
        if taken > 0 {
            // Not for each root: threads would wait for each other.
            let less = |left: usize| Some(left.saturating_sub(taken));
            let _ = self.more_roots.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        contents
    }

    fn new_roots(&self) -> Roots {
        Roots::with_room(self.more_roots.load(Ordering::Relaxed))
    }

    /// Reads what a program took from the break once more where it goes on in the next pieces: up to the next block.
    fn follow_own(&self, pieces: &[Piece], roots: &mut Roots) {
        let mut room = Room::new();
        for piece in pieces.iter().take_while(|piece| piece.is_allocators()) {
            let next = self.blocks.first_behind(piece.range.start);
            let next = if next < self.blocks.len() { self.blocks.start(next as u32) } else { u64::MAX };
            let end = piece.range.end.min(next / WORD * WORD).max(piece.range.start);
            let own = Piece { range: piece.range.start..end, outside: Standing::Vouches, ..*piece };
            roots.join(&mut self.piece(&own, &mut room).roots);
            if end < piece.range.end {
                break;
            }
        }
    }

    /// Words that follow each other in memory, by turns inside and outside of blocks.
    fn stretches(
        &self,
        piece: &Piece,
        copied: Copied<'_>,
        [inside, outside]: [&mut Picked; 2],
        contents: &mut Contents,
    ) {
        let Range { start: from, end } = piece.range;
        let (mut at, mut next) = (from, self.blocks.first_behind(from));
        while at < end {
            let is_last = next == self.blocks.len();
            let block = next as u32;
            // Words that a block has in part are outside.
            let start = if is_last { end } else { self.blocks.start(block).next_multiple_of(WORD).clamp(at, end) };
            if at < start {
                self.outside(piece, copied, at..start, outside, contents);
                at = start;
                continue;
            }
            next += 1;
            // Only a record that is stale has the start of another block within.
            let limit = if next < self.blocks.len() { self.blocks.start(next as u32) } else { u64::MAX };
            let stop = (self.blocks.end(block).min(limit) / WORD * WORD).clamp(at, end);
            if at < stop {
                self.inside(block, copied, at..stop, inside, contents);
                at = stop;
            }
        }
    }

    fn inside(&self, block: u32, copied: Copied<'_>, range: Range<u64>, near: &mut Picked, contents: &mut Contents) {
        if range.start == self.blocks.start(block) {
            let words = copied.words(&range);
            self.judge_own(block, words);
            self.vtables(block, words, &mut contents.vtables);
        }
        let edges = &mut contents.edges;
        self.read(near, block, copied, &range, &mut |block, _, target| self.edge(block, target, edges));
    }

    /// Picks what the words in a range may point to. A pointer may begin in the word before the piece.
    fn read(
        &self,
        near: &mut Picked,
        whose: u32,
        copied: Copied<'_>,
        range: &Range<u64>,
        found: &mut impl FnMut(u32, usize, Target),
    ) {
        let is_continued = range.start == copied.begin;
        self.reader.read(near, whose, copied.words, copied.places(range), is_continued, found);
    }

    /// Notes a pointer of a block.
    fn edge(&self, block: u32, target: Target, edges: &mut EdgesOfPiece) {
        self.note_offset(target);
        edges.push(block, target.block, target.part());
    }

    /// Keeps the vtables of a block that begins with the address of one.
    fn vtables(&self, block: u32, words: &[u64], vtables: &mut Vec<Vtable>) {
        let is_vtable = |word: u64| {
            let behind = self.rules.vtables.partition_point(|range| range.start <= word);
            behind.checked_sub(1).is_some_and(|at| word < self.rules.vtables[at].end)
        };
        if !is_vtable(words[0]) {
            return;
        }
        let places = words.iter().enumerate().filter(|(_, word)| is_vtable(**word)).take(MAX_VTABLES);
        vtables.extend(places.map(|(at, word)| Vtable { block, offset: at as u32 * WORD as u32, address: *word }));
    }

    /// Notes where in a block a pointer points to, if all point to one place.
    fn note_offset(&self, target: Target) {
        let Some(noted) = self.inner.get(target.block as usize) else { return };
        if target.part() != Part::Inside {
            return;
        }
        let offset = match u32::try_from(target.offset) {
            Ok(offset) if !target.doubtful && offset > 0 => offset,
            _ => SEVERAL,
        };
        if let Err(other) = noted.compare_exchange(0, offset, Ordering::Relaxed, Ordering::Relaxed)
            && other != offset
            && other != SEVERAL
        {
            noted.store(SEVERAL, Ordering::Relaxed);
        }
    }

    /// Whether pointers to certain places of a block are as good as one to its start.
    fn judge_own(&self, block: u32, words: &[u64]) {
        let (heuristics, size) = (self.rules.heuristics, self.blocks.size(block));
        let mut own = 0;
        if heuristics.accepts_8(size, words[0]) {
            own |= found::IS_8;
        }
        if let [length, capacity, ..] = *words
            && heuristics.accepts_24(size, [length, capacity])
        {
            own |= found::IS_24;
        }
        if own != 0 {
            self.found[block as usize].fetch_or(own, Ordering::Relaxed);
        }
    }

    fn outside(
        &self,
        piece: &Piece,
        copied: Copied<'_>,
        range: Range<u64>,
        near: &mut Picked,
        contents: &mut Contents,
    ) {
        if piece.is_allocators() {
            // Up to what the program may have taken from the break between two parts of the heap.
            let Some(own) = glibc::own_of_program(range.start, copied.words(&range)) else { return };
            contents.own_at_end = range.end == piece.range.end;
            let piece = &Piece { outside: Standing::Vouches, range: piece.range.clone(), ..*piece };
            let start = range.start + own as u64 * WORD;
            return self.outside(piece, copied, start..range.end, near, contents);
        }
        let is_chunk = |target| piece.holds_chunks && self.is_chunk(target);
        let roots = &mut contents.roots;
        let mut found = |_, place: usize, mut target: Target| match piece.outside {
            _ if is_chunk(target) => {}
            Standing::Ignored => {}
            Standing::Undecided => {
                self.mark(target.block, found::UNDECIDED);
            }
            Standing::Vouches | Standing::Doubts => {
                target.doubtful |= piece.outside == Standing::Doubts;
                self.root(target, Place::Memory(copied.address(place)), roots);
            }
        };
        if piece.outside != Standing::Ignored {
            self.read(near, 0, copied, &range, &mut found);
            self.reader.find(near, &mut found);
        }
    }

    /// Notes a pointer of a word that vouches.
    fn root(&self, target: Target, at: Place, roots: &mut Roots) {
        self.note_offset(target);
        let part = target.part();
        let kind = match part {
            Part::Start => found::START,
            Part::At8 => found::AT_8,
            Part::At24 => found::AT_24,
            Part::Inside => found::INSIDE,
        };
        let root = Root { block: target.block, part, at };
        let is_first = self.mark(target.block, kind);
        roots.add(root, is_first);
    }

    /// Sets a bit; whether it was not set before.
    fn mark(&self, block: u32, bit: u8) -> bool {
        let bits = &self.found[block as usize];
        // Most are set already, and reading is cheaper.
        bits.load(Ordering::Relaxed) & bit == 0 && bits.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Whether a pointer is to the header of the chunk that follows a block in glibc's heap (malloc/malloc.c, "Chunks"): a header
    /// begins at a multiple of 16 bytes, and its first 8 bytes belong to the block before.
    fn is_chunk(&self, target: Target) -> bool {
        let left = self.blocks.size(target.block) - target.offset;
        target.offset > 0 && target.offset.is_multiple_of(16) && left <= WORD
    }
}
