//! Tables by file: how the kernel program finds a table where it has no list of mappings yet, as right after `execve` or
//! `dlopen`. The kernel's own mapping says which file lies at an address, and from where in it.

use super::{Chunks, Rule, lookup};

/// One content of one file, in the kernel's own numbers: what was written over in place is another key.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileKey {
    /// `inode.i_ino`
    pub inode: u64,
    /// Seconds of the time of its last change, as the kernel's two's complement.
    pub modified_s: u64,
    /// `super_block.s_dev`: the minor number in the lower 20 bits, the major above.
    pub device: u32,
    /// Explicit padding.
    pub padding: u32,
}

impl FileKey {
    /// The key of a file by what `stat(2)` says; `None` for a device number that the kernel cannot have.
    #[must_use]
    pub const fn new((major, minor): (u32, u32), inode: u64, modified_s: i64) -> Option<Self> {
        // include/linux/kdev_t.h: MINORBITS.
        if major >> 12 != 0 || minor >> 20 != 0 {
            return None;
        }
        Some(Self { inode, modified_s: modified_s.cast_unsigned(), device: major << 20 | minor, padding: 0 })
    }
}

/// Where the table of a file is in the pool.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileTable {
    /// Its first chunk.
    pub first: u32,
    /// Its chunks.
    pub count: u32,
    /// What to add to an offset in the file, modulo 2^64, for the address that the table's rows are by.
    pub shift: u64,
}

impl FileTable {
    /// The rule for the code at an offset in the file, bytes.
    #[inline(always)]
    #[must_use]
    pub fn rule<C: Chunks + ?Sized>(&self, chunks: &C, offset: u64) -> Rule {
        let relative = offset.wrapping_add(self.shift);
        if relative > u64::from(u32::MAX) { Rule::GAP } else { lookup(chunks, self.first, self.count, relative as u32) }
    }
}

const _: () = {
    assert!(size_of::<FileKey>() == 24);
    assert!(size_of::<FileTable>() == 16);
};

#[cfg(test)]
mod tests {
    use super::{FileKey, FileTable};
    use crate::unwind::{CHUNK_WORDS, Kind, PADDING, Row, Rule};

    #[test]
    fn offsets_are_shifted_to_the_rows_addresses() {
        let rule = Rule::new(Kind::Sp, 3, 0);
        let mut chunk = [PADDING; CHUNK_WORDS];
        chunk[0] = Row::new(0x10, rule).to_bits();
        chunk[1] = Row::new(0x20, Rule::GAP).to_bits();
        // The text lies from 0x2000 on in the file, and its rows count from its first page.
        let table = FileTable { first: 0, count: 1, shift: 0x2000u64.wrapping_neg() };
        assert_eq!(table.rule([chunk].as_slice(), 0x2010), rule);
        assert_eq!(table.rule([chunk].as_slice(), 0x2020), Rule::GAP);
        assert_eq!(table.rule([chunk].as_slice(), 0x1fff), Rule::GAP);
        assert_eq!(table.rule([chunk].as_slice(), 0x1_0000_2010), Rule::GAP);
    }

    #[test]
    fn a_device_has_the_number_that_the_kernel_gives_it() {
        // new_decode_dev(): 254:3 is (254 << 20) | 3.
        assert_eq!(FileKey::new((254, 3), 7, -1).map(|key| key.device), Some(0x0fe0_0003));
        assert_eq!(FileKey::new((1 << 12, 0), 7, 0), None);
        assert_eq!(FileKey::new((0, 1 << 20), 7, 0), None);
    }
}
