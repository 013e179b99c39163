//! Net flow: what is allocated and freed by size class while a window is open (`--burst`). Blocks that were allocated while nobody
//! looked are known when they are freed, by the size that glibc keeps in front of each.

/// Size classes of a process. Class 0 has the blocks whose size in the allocator is not known.
pub const CLASSES: u32 = 256;
/// Process slots whose flow is counted: those below this number.
pub const FLOW_SLOTS: u32 = 256;

/// What went in and out of one size class of one process, while windows were open.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Blocks allocated.
    pub alloc_count: u64,
    /// Their bytes in the allocator; those asked for where the former are not known.
    pub alloc_bytes: u64,
    /// Blocks freed, whenever they were allocated.
    pub free_count: u64,
}

/// What userspace tells the running programs of windows, and they it.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Windows {
    /// The number of the window that is open, from 1; 0 while none is, and then the programs do nothing.
    pub open: u64,
    /// Nonzero where glibc keeps each block's size in front of it.
    pub headers: u64,
    /// The classes of which blocks are recorded with their stacks, a bit for each.
    pub recorded: [u64; CLASSES as usize / 64],
    /// Frees from within the allocator that may have been the program's, and were not counted.
    pub frees_lost: u64,
}

/// What a thread has in flight in a window, beside `abi::Thread` and at the same place.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct FlowThread {
    /// The window that the rest is about.
    pub window: u64,
    /// The class of the block that `realloc` was given, plus one; 0 for none.
    pub resized: u64,
    /// Classes of blocks that were freed from within the allocator since anything else was freed or allocated, a byte each: the
    /// thread's cache, if its end follows.
    pub kept_back: u64,
    /// How many of these there are.
    pub kept_back_count: u64,
}

/// As many classes as [`FlowThread::kept_back`] has room for.
pub const KEPT_BACK: u64 = 8;

/// What glibc's sizes are multiples of, bytes.
const GRAIN_BITS: u32 = 4;
/// Up to here each size has a class of its own: those that a thread's cache keeps.
const EXACT: u64 = 1040;
/// Beyond, each power of two has so many, a power of two itself.
const PARTS_BITS: u32 = 2;
/// The class of the first size beyond.
const FIRST_WIDE: u64 = (EXACT >> GRAIN_BITS) + 1;
/// That size's power of two.
const WIDE_BITS: u32 = 10;
/// The smallest size in glibc.
const LEAST: u64 = 32;

/// The size that glibc keeps in front of a block, from the word that is there; `None` where no size can be there.
#[inline(always)]
#[must_use]
pub const fn chunk_size(header: u64) -> Option<u64> {
    // The lowest bits are marks.
    let size = header & !7;
    if size < LEAST || size >> 47 != 0 || size & ((1 << GRAIN_BITS) - 1) != 0 { None } else { Some(size) }
}

/// The least size that glibc gives to a request.
#[inline(always)]
#[must_use]
pub const fn chunk_for(request: u64) -> u64 {
    let size = request.saturating_add(8 + (1 << GRAIN_BITS) - 1) & !((1 << GRAIN_BITS) - 1);
    if size < LEAST { LEAST } else { size }
}

/// The class of a size in glibc, from 1.
#[inline(always)]
#[must_use]
pub const fn class(size: u64) -> u32 {
    if size <= EXACT {
        return (size >> GRAIN_BITS) as u32;
    }
    let bits = size.ilog2();
    let part = (size >> (bits - PARTS_BITS)) & ((1 << PARTS_BITS) - 1);
    let class = FIRST_WIDE + (((bits - WIDE_BITS) as u64) << PARTS_BITS) + part;
    if class < CLASSES as u64 { class as u32 } else { CLASSES - 1 }
}

/// The least and the largest size of a class above 0, bytes.
#[must_use]
pub const fn sizes(class: u32) -> [u64; 2] {
    let class = class as u64;
    if class < FIRST_WIDE {
        return [class << GRAIN_BITS, class << GRAIN_BITS];
    }
    let (power, part) = ((class - FIRST_WIDE) >> PARTS_BITS, (class - FIRST_WIDE) & ((1 << PARTS_BITS) - 1));
    let unit = 1u64 << (power + (WIDE_BITS - PARTS_BITS) as u64);
    let least = unit * ((1 << PARTS_BITS) + part);
    [if least > EXACT { least } else { EXACT + (1 << GRAIN_BITS) }, least + unit - (1 << GRAIN_BITS)]
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, words only.
    unsafe impl aya::Pod for super::Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Windows {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FlowThread {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_is_in_the_range_of_its_class_and_classes_follow_one_another() {
        let mut before = (2, 16);
        for size in (LEAST..1 << 20).step_by(16) {
            let class = class(size);
            let [least, most] = sizes(class);
            assert!((least..=most).contains(&size), "{size} is not in class {class}, {least} to {most}");
            assert!(class == before.0 || class == before.0 + 1 && least == before.1 + 16, "{size}");
            before = (class, size);
        }
        assert_eq!(sizes(class(1040)), [1040, 1040]);
        assert_eq!(sizes(class(1056)), [1056, 1264]);
        assert_eq!(sizes(class(4096)), [4096, 5104]);
        assert!(class((1 << 47) - 16) < CLASSES && class(u64::MAX) < CLASSES);
    }

    #[test]
    fn requests_get_what_glibc_gives() {
        for (request, size) in [(0, 32), (1, 32), (24, 32), (25, 48), (40, 48), (1032, 1040), (1033, 1056)] {
            assert_eq!(chunk_for(request), size, "{request}");
        }
        assert!(chunk_for(u64::MAX) >= LEAST);
    }

    #[test]
    fn what_is_no_size_is_none() {
        assert_eq!(chunk_size(0x61), Some(0x60));
        assert_eq!(chunk_size(0x21002), Some(0x21000), "mapped by itself");
        for header in [0, 0x18, 0x11, 0x69, 1 << 47, u64::MAX] {
            assert_eq!(chunk_size(header), None, "{header:#x}");
        }
    }
}
