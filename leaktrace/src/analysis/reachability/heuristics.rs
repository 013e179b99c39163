//! Pointers into the middle of a block that are as good as one to its start, by the names that Valgrind gives them
//! (`--leak-check-heuristics` in its manual, "Command-line Options"): C++ and libraries hand out such pointers alone.

/// Which of them are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent names, as Valgrind has them")]
pub struct Heuristics {
    /// To the characters of a `std::string` that counts its references: behind length, capacity and that count.
    pub stdstring: bool,
    /// 8 bytes behind the start, where the first 8 bytes hold how many follow.
    pub length64: bool,
    /// To the first element of an array of objects with destructors: behind the number of elements.
    pub newarray: bool,
    /// To a base class: both the start of the block and what the pointer points to begin with the address of a vtable.
    pub multipleinheritance: bool,
}

impl Heuristics {
    /// All of them, as Valgrind does by default.
    pub const ALL: Self = Self { stdstring: true, length64: true, newarray: true, multipleinheritance: true };
    /// None of them.
    pub const NONE: Self = Self { stdstring: false, length64: false, newarray: false, multipleinheritance: false };

    /// Whether a pointer 8 bytes behind the start of a block is good, by its first word.
    pub(super) fn accepts_8(self, size: u64, first: u64) -> bool {
        let Some(behind) = size.checked_sub(8).filter(|behind| *behind > 0) else { return false };
        self.length64 && first == behind || self.newarray && first > 0 && behind.is_multiple_of(first)
    }

    /// Whether a pointer 24 bytes behind the start of a block is good, by its first two words.
    pub(super) fn accepts_24(self, size: u64, [length, capacity]: [u64; 2]) -> bool {
        // A closing zero is not part of the capacity.
        self.stdstring && length <= capacity && capacity.checked_add(25) == Some(size)
    }
}

#[cfg(test)]
mod tests {
    use super::Heuristics;

    #[test]
    fn each_is_as_valgrind_describes_it() {
        let only = Heuristics { newarray: true, ..Heuristics::NONE };
        // Three objects of 24 bytes behind their number.
        assert!(only.accepts_8(80, 3) && !only.accepts_8(80, 5) && !only.accepts_8(80, 0));
        let only = Heuristics { length64: true, ..Heuristics::NONE };
        assert!(only.accepts_8(80, 72) && !only.accepts_8(80, 3) && !only.accepts_8(8, 0) && !only.accepts_8(3, 3));
        let only = Heuristics { stdstring: true, ..Heuristics::NONE };
        assert!(only.accepts_24(24 + 15 + 1, [7, 15]) && only.accepts_24(40, [15, 15]));
        assert!(!only.accepts_24(40, [16, 15]) && !only.accepts_24(41, [7, 15]));
        assert!(!only.accepts_24(24, [0, u64::MAX]));
    }
}
