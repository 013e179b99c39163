//! The words from outside of a process' memory, and what each of them is.

use crate::process::kernel_roots::KernelRoots;
use crate::process::registers;

/// Words, and what they are.
#[derive(Debug, Default)]
pub struct Given {
    /// The words: for the search.
    pub words: Vec<u64>,
    /// From which word on they are what.
    parts: Vec<(usize, Part)>,
    epoll: Vec<i32>,
    timers: Vec<i32>,
}

/// The name of shared memory that a process has not used itself.
const UNSEEN: &str = "shared memory that others have written";

/// What a run of words is. Threads are known by their places among those that were stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Epoll,
    Timers,
    Unseen,
    /// Blocks that the program wants no leak reported of.
    Ignored,
    /// All registers of a thread.
    Registers(usize),
    /// The registers that a call keeps.
    Kept(usize),
    /// The table of a thread's own variables.
    Table(usize),
    /// Those of threads that have ended.
    KeptTables,
    /// The block that a thread runs on.
    Stack(usize),
    /// The block that a thread has given to `realloc`.
    Moving(usize),
}

/// What a word is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// Something that the kernel holds, by name.
    Kernel(String),
    /// That the program wants no leak reported of the block.
    Ignored,
    /// A thread's table.
    Table(usize),
    /// The table of a thread that has ended, kept for the next.
    KeptTable,
    /// A thread's stack.
    Stack(usize),
    /// A thread's register, by name.
    Register(usize, String),
    /// A call of `realloc` that a thread is in.
    Realloc(usize),
}

impl Given {
    /// Adds what the kernel holds.
    pub fn kernel(&mut self, roots: &KernelRoots) {
        self.begin(Part::Epoll);
        self.words.extend(roots.epoll.iter().map(|entry| entry.data));
        self.epoll = roots.epoll.iter().map(|entry| entry.watched).collect();
        self.begin(Part::Timers);
        self.words.extend(roots.timers.iter().map(|timer| timer.value));
        self.timers = roots.timers.iter().map(|timer| timer.id).collect();
    }

    /// Adds words of shared memory that the process has not used itself.
    pub fn unseen(&mut self, words: impl Iterator<Item = u64>) {
        self.begin(Part::Unseen);
        self.words.extend(words);
    }

    /// Adds the addresses of blocks that the program wants no leak reported of.
    pub fn ignored(&mut self, blocks: impl Iterator<Item = u64>) {
        self.begin(Part::Ignored);
        self.words.extend(blocks);
    }

    /// Adds a thread's registers: all of them, general ones first, or those that a call keeps.
    pub fn registers(&mut self, thread: usize, words: &[u64], are_kept: bool) {
        self.begin(if are_kept { Part::Kept(thread) } else { Part::Registers(thread) });
        self.words.extend_from_slice(words);
    }

    /// Adds the address of a thread's table of local variables.
    pub fn table(&mut self, thread: usize, word: u64) {
        self.begin(Part::Table(thread));
        self.words.push(word);
    }

    /// Adds the addresses of such tables that the C library keeps for later threads.
    pub fn kept_tables(&mut self, words: &[u64]) {
        self.begin(Part::KeptTables);
        self.words.extend_from_slice(words);
    }

    /// Adds the start of the block that a thread runs on.
    pub fn stack(&mut self, thread: usize, word: u64) {
        self.begin(Part::Stack(thread));
        self.words.push(word);
    }

    /// Adds the block that a thread has given to `realloc`, which has not returned.
    pub fn moving(&mut self, thread: usize, word: u64) {
        self.begin(Part::Moving(thread));
        self.words.push(word);
    }

    fn begin(&mut self, part: Part) {
        self.parts.push((self.words.len(), part));
    }

    /// What the word at this position is.
    #[must_use]
    pub fn what(&self, position: usize) -> Option<What> {
        let behind = self.parts.partition_point(|(first, _)| *first <= position);
        let (first, part) = self.parts.get(behind.checked_sub(1)?)?;
        let place = position - first;
        Some(match *part {
            Part::Epoll => What::Kernel(format!("epoll data of descriptor {}", self.epoll.get(place)?)),
            Part::Timers => What::Kernel(format!("value of timer {}", self.timers.get(place)?)),
            Part::Unseen => What::Kernel(UNSEEN.to_owned()),
            Part::Ignored => What::Ignored,
            Part::Registers(thread) => What::Register(thread, registers::name(place)),
            Part::Kept(thread) => What::Register(thread, registers::kept_name(place)),
            Part::Table(thread) => What::Table(thread),
            Part::KeptTables => What::KeptTable,
            Part::Stack(thread) => What::Stack(thread),
            Part::Moving(thread) => What::Realloc(thread),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::kernel_roots::{EpollEntry, Timer};

    #[test]
    fn each_word_is_known_by_its_position() {
        let mut given = Given::default();
        let epoll = vec![EpollEntry { watched: 5, data: 1 }, EpollEntry { watched: 9, data: 2 }];
        given.kernel(&KernelRoots { epoll, timers: vec![Timer { id: 3, signal: 0, value: 4 }], missing: Vec::new() });
        given.registers(0, &[0; 30], false);
        given.table(0, 7);
        given.registers(1, &[0; 6], true);
        given.stack(1, 8);
        given.moving(0, 9);
        given.ignored([0x10, 0x20].into_iter());
        let what = |position| given.what(position);
        assert_eq!(what(1), Some(What::Kernel("epoll data of descriptor 9".to_owned())));
        assert_eq!(what(2), Some(What::Kernel("value of timer 3".to_owned())));
        assert_eq!(what(33), Some(What::Table(0)));
        assert_eq!(what(40), Some(What::Stack(1)));
        assert!(matches!(what(34), Some(What::Register(1, _))));
        assert_eq!(what(41), Some(What::Realloc(0)));
        assert_eq!([42, 43].map(what), [Some(What::Ignored), Some(What::Ignored)]);
        assert_eq!(given.words.len(), 44);
        #[cfg(target_arch = "x86_64")]
        assert_eq!((what(3), what(34)), (Some(What::Register(0, "r15".into())), Some(What::Register(1, "rbx".into()))));
    }
}
