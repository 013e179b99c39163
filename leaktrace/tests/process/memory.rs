//! What is read of a process' memory is what the process has in it, and reading changes nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;

use leaktrace::model::{Address, Pid};
use leaktrace::process::memory::{Batches, Buffer, Filled, Reader, RegionKind, Survey};
use leaktrace::process::stop::Stopped;

use super::support::{PATIENT, Victim};

/// A piece of memory as the program describes it.
struct Piece {
    kind: String,
    start: u64,
    bytes: u64,
    sum: u64,
}

impl Piece {
    fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| u64::from_str_radix(words[index], 16).unwrap();
        Self { kind: words[0].to_owned(), start: number(1), bytes: number(2), sum: number(3) }
    }

    fn contains(&self, address: Address) -> bool {
        (self.start..self.start + self.bytes).contains(&address.0)
    }
}

/// Starts the program and reads what it says.
fn start() -> (Victim, Vec<Piece>) {
    let home = tempfile::tempdir().unwrap();
    let (mut victim, mut line) = Victim::start("memory.c", &[home.path().join("file").to_str().unwrap()]);
    let mut pieces = Vec::new();
    while line != "ready" {
        pieces.push(Piece::parse(&line));
        line = victim.line();
    }
    (victim, pieces)
}

fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap();
    size.try_into().unwrap()
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

/// The entries of `/proc/PID/pagemap` without the frames' numbers: which pages are there, and how.
fn page_table(pid: Pid, pieces: &[Piece]) -> Vec<u64> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let pages = pieces.iter().flat_map(|piece| piece.start / page_size()..(piece.start + piece.bytes) / page_size());
    let entry = |page: u64| {
        let mut entry = [0; 8];
        pagemap.read_exact_at(&mut entry, page * 8).unwrap();
        u64::from_ne_bytes(entry) >> 61
    };
    pages.map(entry).collect()
}

#[test]
fn every_word_that_a_process_has_is_read_and_no_page_is_made() {
    let (victim, pieces) = start();
    let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
    let before = page_table(victim.pid(), &pieces);
    let survey = Survey::of(victim.pid()).unwrap();
    let reader = Reader::open(victim.pid()).unwrap();
    let mut buffer = Buffer::new(64 * 1024);
    let batches = Batches::of(&survey.runs, buffer.bytes());
    let mut sums = vec![0_u64; pieces.len()];
    let mut filled = Filled::default();
    for index in 0..batches.len() {
        let batch = batches.get(index).unwrap();
        filled += reader.fill(batch, &mut buffer);
        let mut words = &buffer[..];
        for run in batch {
            let (own, rest) = words.split_at(run.bytes() as usize / 8);
            words = rest;
            for (piece, sum_of) in pieces.iter().zip(&mut sums).filter(|(piece, _)| piece.contains(run.start)) {
                assert!(piece.kind == "Block" || piece.contains(Address(run.end.0 - 1)), "pieces are mappings");
                *sum_of = sum_of.wrapping_add(sum(own));
            }
        }
    }
    assert_eq!(filled, Filled { read: survey.resident_bytes() + survey.swapped_bytes(), unreadable: 0 });
    assert_eq!(survey.unknown_bytes, 0);
    for (piece, sum_of) in pieces.iter().zip(sums) {
        let region = survey.regions.iter().find(|region| region.start.0 <= piece.start && piece.start < region.end.0);
        match piece.kind.as_str() {
            "Block" => {
                let mut words = vec![0; piece.bytes as usize / 8];
                assert_eq!(reader.read_at(Address(piece.start), &mut words).read, piece.bytes);
                assert_eq!(sum(&words), piece.sum, "the block at {:x}", piece.start);
                // Zero-initialized data begins in the mapping of the file and ends in one without.
                let is_found = |address| survey.runs.iter().any(|run| (run.start.0..run.end.0).contains(&address));
                assert!((piece.start..piece.start + piece.bytes).step_by(8).all(is_found), "{:x}", piece.start);
            }
            "File" => assert_eq!((region, sum_of), (None, 0), "a mapped file is no memory of the process"),
            "Zeroes" => assert!(!survey.runs.iter().any(|run| piece.contains(run.start))),
            kind => {
                assert_eq!(format!("{:?}", region.unwrap().kind), kind);
                assert_eq!(sum_of, piece.sum, "{kind} at {:x}", piece.start);
            }
        }
    }
    assert!(page_table(victim.pid(), &pieces) == before, "pages were made or taken");
    let kinds = [RegionKind::Heap, RegionKind::Stack];
    assert!(kinds.iter().all(|kind| survey.regions.iter().any(|region| region.kind == *kind)));
    drop(stopped);
}

#[test]
fn what_is_resident_is_what_the_kernel_says() {
    let (victim, _) = start();
    // After its last line it still makes a page: the buffer from which it reads.
    let stopped = Stopped::stop(victim.pid(), PATIENT).unwrap();
    let survey = Survey::of(victim.pid()).unwrap();
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", victim.pid())).unwrap();
    let (mut anonymous, mut is_code) = (0, false);
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap(), words.next().unwrap_or_default());
        match first {
            "Anonymous:" if !is_code => anonymous += second.parse::<u64>().unwrap() * 1024,
            // Pages of code are the process' own where somebody has set a breakpoint.
            _ if first.contains('-') => is_code = second.contains('x'),
            _ => {}
        }
    }
    // Shared memory, three pages of it, is not counted as anonymous.
    assert_eq!(survey.resident_bytes() + survey.swapped_bytes(), anonymous + 3 * page_size());
    drop(stopped);
}
