//! Where a thread's stack begins, as its C library knows it.
//!
//! In: a thread's control block, at which the library's own description of the thread begins. Out: the lowest address of its stack.
//! Where in the description that stands differs from version to version, so it is known by what it says.

use std::ops::Range;

use super::memory::Memory;

const WORD: u64 = 8;
/// How much of the description is looked at, bytes: all of glibc's `struct pthread`.
const DESCRIPTION: u64 = 0x900;
/// Where musl has it, in words.
const MUSL: Range<usize> = 8..16;
/// How far from the end of the stack the description begins at most: beside it lie thread-local variables.
const NEAR_END: u64 = 64 << 10;
/// The smallest stack that may be given to a thread (`PTHREAD_STACK_MIN` of musl).
const SMALLEST: u64 = 2048;

/// Where the stack begins; `None` if the description does not say.
pub(super) fn stack_start(control_block: u64, memory: &dyn Memory) -> Option<u64> {
    let mut words = vec![0; (DESCRIPTION / WORD) as usize];
    // What cannot be read is zero.
    memory.read(control_block, &mut words);
    let reaches_over = |start: u64, size: u64| {
        let end = start.checked_add(size);
        start > 0
            && start < control_block
            && end.is_some_and(|end| (control_block..=control_block.saturating_add(NEAR_END)).contains(&end))
    };
    // musl: `map_base`, `map_size`, `stack` (its end) and `stack_size` (src/internal/pthread_impl.h); no mapping where the program gave
    // the stack. glibc has nothing there.
    let by_musl = words[MUSL].array_windows().find_map(|[base, mapped, end, size]| {
        let is_near = control_block.checked_sub(*end).is_some_and(|room| room <= NEAR_END);
        let start = end.checked_sub(*size).filter(|_| is_near && *size >= SMALLEST)?;
        let is_within = (*base, *mapped) == (0, 0) || reaches_over(*base, *mapped) && *base <= start;
        is_within.then_some(start)
    });
    // glibc: `stackblock` and `stackblock_size` (nptl/descr.h). If chance has added another such pair, less is taken for dead.
    let all = words.array_windows().filter(|[start, size]| reaches_over(*start, *size)).map(|[start, _]| *start);
    by_musl.or_else(|| all.max())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::reachability::tests::Words;

    const CONTROL_BLOCK: u64 = 0x7f00_0010_0700;

    fn start(at: u64, words: &[u64]) -> Option<u64> {
        stack_start(CONTROL_BLOCK, &Words(vec![(CONTROL_BLOCK + at, words.to_vec())]))
    }

    #[test]
    fn a_stack_begins_where_its_threads_description_says() {
        let first = 0x7f00_0000_0000;
        assert_eq!(start(0x690, &[first, 0x10_1000, 0x1000]), Some(first), "glibc");
        let of_musl = CONTROL_BLOCK - 64 - 0x10_0000;
        assert_eq!(start(0x48, &[first, 0x10_2000, CONTROL_BLOCK - 64, 0x10_0000]), Some(of_musl), "musl");
        assert_eq!(start(0x48, &[0, 0, CONTROL_BLOCK - 64, 0x1_0000]), Some(CONTROL_BLOCK - 64 - 0x1_0000), "given");
        assert_eq!(start(0x690, &[first, 0x10_0000]), None, "it ends before the description");
        assert_eq!(start(0x690, &[first, 0x20_0000]), None, "it ends far behind it");
        assert_eq!(start(0x690, &[]), None);
    }
}
