//! Sharing, freeing and publishing, seen through the search that the kernel program makes.

use std::collections::{HashMap, HashSet};

use leaktrace_common::unwind::{CHUNK_WORDS, Chunk, ProcessWord, Rule, Stop, find_rule};

use super::image::Image;
use super::{build, sp};
use crate::model::Pid;
use crate::unwind_tables::{Code, CodeMapping, PoolWriter, PublishError, Registry, TableError, UnwindTable};

/// The pool, and how often the cache of rules was emptied.
struct Pool(Vec<Chunk>, usize);

impl PoolWriter for Pool {
    fn write(&mut self, first_chunk: u32, words: &[u64]) {
        assert_eq!(words.len() % CHUNK_WORDS, 0);
        let first = first_chunk as usize;
        self.0[first..first + words.len() / CHUNK_WORDS].as_flattened_mut().copy_from_slice(words);
    }

    fn forget_rules(&mut self) {
        self.1 += 1;
    }
}

fn pool(chunks: usize) -> (Registry<&'static str>, Pool) {
    (Registry::new(chunks as u32), Pool(vec![[u64::MAX; CHUNK_WORDS]; chunks], 0))
}

/// Rows from 0x10 to 0x20 of the text, which starts on the third page of the file.
fn table() -> UnwindTable {
    let mut image = Image::new(0x1000);
    image.fde(0x10, 0x10, &[0x0e, 24]);
    build(&image)
}

const fn object(start: u64, name: &'static str) -> CodeMapping<&'static str> {
    CodeMapping { start, end: start + 0x1000, file_offset: 0x2000, code: Code::Object(name) }
}

const fn anonymous(start: u64) -> CodeMapping<&'static str> {
    CodeMapping { start, end: start + 0x1000, file_offset: 0, code: Code::Anonymous }
}

fn rule(pool: &Pool, process: ProcessWord, address: u64) -> Rule {
    find_rule(pool.0.as_slice(), process, address)
}

#[test]
fn a_process_sees_each_mapping_as_far_as_it_is_known() {
    let (mut registry, mut pool) = pool(16);
    let trampoline = CodeMapping { code: Code::ReturnTrampoline, ..anonymous(0x5000) };
    let mappings = vec![trampoline, object(0x3000, "late"), anonymous(0x4000), object(0x1000, "early")];
    assert_eq!(registry.set_mappings(Pid(1), mappings), ["early", "late"]);
    assert_eq!(registry.table_built(&"early", Ok(table()), &mut pool), [Pid(1)]);
    let first = registry.publish(Pid(1), &mut pool).unwrap().unwrap();

    assert_eq!(rule(&pool, first, 0x1014), sp(3));
    assert_eq!(rule(&pool, first, 0x1024), Rule::GAP);
    assert_eq!(rule(&pool, first, 0x2014), Rule::unsupported(Stop::NoMapping));
    assert_eq!(rule(&pool, first, 0x3014), Rule::unsupported(Stop::TablePending));
    assert_eq!(rule(&pool, first, 0x4014), Rule::unsupported(Stop::NoTable));
    assert_eq!(rule(&pool, first, 0x5000 - 1), Rule::unsupported(Stop::Trampoline), "a return to the page's start");
    assert_eq!(rule(&pool, first, 0x5014), Rule::unsupported(Stop::Trampoline));

    registry.table_built(&"late", Ok(table()), &mut pool);
    let second = registry.publish(Pid(1), &mut pool).unwrap().unwrap();
    assert_eq!(rule(&pool, second, 0x3014), sp(3));
    assert_ne!(first.generation(), second.generation());
    assert_eq!(rule(&pool, first, 0x1014), sp(3), "the old list rests unharmed for walks that still read it");
}

#[test]
fn objects_without_a_table_are_not_asked_for_again() {
    let (mut registry, mut pool) = pool(16);
    assert_eq!(registry.set_mappings(Pid(1), vec![object(0x1000, "script")]), ["script"]);
    registry.table_built(&"script", Err(TableError::NoUnwindInformation), &mut pool);
    assert!(registry.set_mappings(Pid(2), vec![object(0x1000, "script")]).is_empty());
    let word = registry.publish(Pid(2), &mut pool).unwrap().unwrap();
    assert_eq!(rule(&pool, word, 0x1014), Rule::unsupported(Stop::NoTable));
}

#[test]
fn tables_are_shared_and_stay_for_the_next_process() {
    let (mut registry, mut pool) = pool(16);
    registry.set_mappings(Pid(1), vec![object(0x1000, "lib")]);
    registry.table_built(&"lib", Ok(table()), &mut pool);
    assert!(registry.set_mappings(Pid(2), vec![object(0x7000, "lib")]).is_empty());
    registry.publish(Pid(1), &mut pool).unwrap();
    let second = registry.publish(Pid(2), &mut pool).unwrap().unwrap();
    assert_eq!(registry.used_bytes(), 3 * 4096, "one table, two lists");

    registry.forget(Pid(1));
    registry.reclaim();
    registry.reclaim();
    assert_eq!(registry.used_bytes(), 2 * 4096);
    assert_eq!(rule(&pool, second, 0x7014), sp(3));
    registry.forget(Pid(2));
    registry.reclaim();
    registry.reclaim();
    assert_eq!(registry.used_bytes(), 4096);
    assert!(registry.set_mappings(Pid(3), vec![object(0x1000, "lib")]).is_empty(), "its table is still there");
    let third = registry.publish(Pid(3), &mut pool).unwrap().unwrap();
    assert_eq!(rule(&pool, third, 0x1014), sp(3));
    assert_eq!(registry.table_built(&"gone", Ok(table()), &mut pool), []);
}

#[test]
fn a_table_is_found_by_the_file_once_it_is_built() {
    let (mut registry, mut pool) = pool(16);
    assert!(registry.announce(&"lib"), "new, hence to be built");
    assert!(!registry.announce(&"lib"));
    assert_eq!(registry.placed(&"lib"), None);
    assert_eq!(registry.table_built(&"lib", Ok(table()), &mut pool), [], "nobody maps it");
    let placed = registry.placed(&"lib").unwrap();
    assert_eq!(placed.rule(pool.0.as_slice(), 0x2014), sp(3), "its text starts on the third page of the file");
    assert_eq!(placed.rule(pool.0.as_slice(), 0x2024), Rule::GAP);
    assert!(registry.announce(&"script"));
    registry.table_built(&"script", Err(TableError::NoUnwindInformation), &mut pool);
    assert_eq!(registry.placed(&"script"), None);
}

#[test]
fn tables_that_nobody_uses_go_by_age_when_they_are_too_many() {
    let (mut registry, mut pool) = pool(16);
    let names = ["one", "two", "three", "four", "five", "six"];
    for name in names {
        registry.announce(&name);
        registry.table_built(&name, Ok(table()), &mut pool);
    }
    // A quarter of the pool is for them.
    assert_eq!(registry.take_dropped(), ["one", "two"]);
    assert_eq!(registry.placed(&"two"), None);
    assert!(registry.placed(&"three").is_some());

    // In use it stays, however old, and is the youngest afterwards.
    registry.set_mappings(Pid(1), vec![object(0x1000, "three")]);
    for name in ["seven", "eight"] {
        registry.announce(&name);
        registry.table_built(&name, Ok(table()), &mut pool);
    }
    assert_eq!(registry.take_dropped(), ["four"]);
    registry.forget(Pid(1));
    assert_eq!(registry.take_dropped(), ["five"]);
    assert!(registry.placed(&"three").is_some());

    // Where the pool is nearly full, all of them make room.
    registry.reclaim();
    registry.reclaim();
    for pid in 2..11 {
        registry.set_mappings(Pid(pid), vec![anonymous(0x1000)]);
        registry.publish(Pid(pid), &mut pool).unwrap();
    }
    registry.reclaim();
    assert_eq!(registry.take_dropped(), ["six", "seven", "eight", "three"]);
}

#[test]
fn a_full_pool_is_said_and_leaves_what_was_published() {
    let (mut registry, mut pool) = pool(2);
    registry.set_mappings(Pid(1), vec![object(0x1000, "one"), object(0x2000, "two")]);
    registry.table_built(&"one", Ok(table()), &mut pool);
    let word = registry.publish(Pid(1), &mut pool).unwrap().unwrap();
    registry.table_built(&"two", Ok(table()), &mut pool);
    assert_eq!(registry.refused_tables(), 1);
    assert_eq!(registry.publish(Pid(1), &mut pool), Err(PublishError::PoolFull));
    assert_eq!(rule(&pool, word, 0x1014), sp(3));
    assert_eq!(registry.publish(Pid(9), &mut pool), Ok(None));

    let too_many = (0..70_000).map(|i| anonymous(i * 0x1000)).collect();
    registry.set_mappings(Pid(2), too_many);
    assert_eq!(registry.publish(Pid(2), &mut pool), Err(PublishError::TooManyMappings));
}

#[test]
fn lists_longer_than_a_chunk_are_searched_through() {
    let (mut registry, mut pool) = pool(16);
    let mut mappings: Vec<_> = (0..1000).map(|i| anonymous(0x10_0000 + i * 0x2000)).collect();
    mappings.push(object(0x9000_0000, "far"));
    registry.set_mappings(Pid(1), mappings);
    registry.table_built(&"far", Ok(table()), &mut pool);
    let word = registry.publish(Pid(1), &mut pool).unwrap().unwrap();
    assert_eq!(rule(&pool, word, 0x9000_0014), sp(3));
    for i in [0, 127, 128, 129, 999] {
        assert_eq!(rule(&pool, word, 0x10_0fff + i * 0x2000), Rule::unsupported(Stop::NoTable));
        assert_eq!(rule(&pool, word, 0x10_1000 + i * 0x2000), Rule::unsupported(Stop::NoMapping));
    }
}

#[test]
fn no_generation_comes_again_while_the_cache_may_have_rules_of_it() {
    let (registry, mut pool) = pool(256);
    let mut registry = registry.with_generations(7);
    let publish = |registry: &mut Registry<_>, pool: &mut Pool, pid| {
        registry.set_mappings(Pid(pid), vec![anonymous(0x1000)]);
        let generation = registry.publish(Pid(pid), pool).unwrap().unwrap().generation();
        registry.reclaim();
        generation
    };
    // Generations that were used since the cache was emptied last, or were in use then.
    let (mut tainted, mut current, mut emptied) = (HashSet::new(), HashMap::new(), 0);
    for step in 0..10_000u32 {
        // One process that stays, one that stays for a while, and a new one each time.
        let pid = match step % 100 {
            0 => 1,
            50 => 2,
            _ => 3 + step,
        };
        let generation = publish(&mut registry, &mut pool, pid);
        if pool.1 != emptied {
            emptied = pool.1;
            tainted = current.values().copied().collect();
        }
        assert!(tainted.insert(generation), "generation {generation} again, in step {step}");
        current.insert(pid, generation);
        if pid > 2 {
            registry.forget(Pid(pid));
            current.remove(&pid);
        }
    }
    assert!(emptied > 1000);
}

#[test]
fn where_all_generations_are_in_use_a_process_is_refused() {
    let (registry, mut pool) = pool(64);
    let mut registry = registry.with_generations(3);
    for pid in 1..=3 {
        registry.set_mappings(Pid(pid), vec![anonymous(0x1000)]);
        assert!(registry.publish(Pid(pid), &mut pool).is_ok());
    }
    registry.set_mappings(Pid(4), vec![anonymous(0x1000)]);
    assert_eq!(registry.publish(Pid(4), &mut pool), Err(PublishError::TooManyProcesses));
    registry.forget(Pid(2));
    assert!(registry.publish(Pid(4), &mut pool).is_ok());
}
