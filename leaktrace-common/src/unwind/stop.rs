//! Why a walk ended: one name per reason, one counter per name.

/// Why a walk up the stack ended. The discriminant indexes the counters of the kernel program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stop {
    /// The outermost frame was reached: its return address is undefined or zero, or its frame pointer is zero where
    /// only the frame pointer tells. The one way in which a stack is complete.
    Outermost = 0,
    /// As many frames as were asked for; there may be more.
    TooDeep = 1,
    /// The address lies in no executable mapping that is known for the process, and the frame pointer leads nowhere.
    NoMapping = 2,
    /// The mapping has no table (code made at run time, an object without unwind information) and the frame pointer
    /// leads nowhere.
    NoTable = 3,
    /// The process' mappings are not known yet or the table is still being built, and the frame pointer leads nowhere.
    TablePending = 4,
    /// The table has no row for the address (assembly without CFI) and the frame pointer leads nowhere.
    NoRow = 5,
    /// The stack could not be read: swapped out, or not a stack.
    BadRead = 6,
    /// The caller's frame would not lie above this one: the registers or the rule cannot be right.
    NotAdvancing = 7,
    /// The rule is a DWARF expression outside the few known patterns.
    Expression = 8,
    /// The rule starts from a register that is not tracked, or whose value was lost in an inner frame.
    Register = 9,
    /// An offset in the rule is negative, no multiple of 8, or larger than a row can hold (8 MiB).
    Offset = 10,
    /// The CFI of this function cannot be decoded.
    Malformed = 11,
    /// A return probe (ours or another tracer's) has replaced the return address by its trampoline.
    Trampoline = 12,
    /// The stack was walked, but the table of stacks had no room for its outer frames. No walk ends so.
    NoRoom = 13,
}

impl Stop {
    /// Every reason, in the order of the discriminants.
    pub const ALL: [Self; 14] = [
        Self::Outermost,
        Self::TooDeep,
        Self::NoMapping,
        Self::NoTable,
        Self::TablePending,
        Self::NoRow,
        Self::BadRead,
        Self::NotAdvancing,
        Self::Expression,
        Self::Register,
        Self::Offset,
        Self::Malformed,
        Self::Trampoline,
        Self::NoRoom,
    ];

    /// The reason with this discriminant.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }

    /// A few words for diagnostics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outermost => "complete",
            Self::TooDeep => "deeper than --max-depth",
            Self::NoMapping => "address in no known mapping",
            Self::NoTable => "code without unwind table or frame pointer",
            Self::TablePending => "unwind table not ready yet",
            Self::NoRow => "no unwind row or frame pointer",
            Self::BadRead => "stack not readable",
            Self::NotAdvancing => "caller's frame not above its callee's",
            Self::Expression => "unsupported DWARF expression",
            Self::Register => "rule on an untracked register",
            Self::Offset => "offset that a row cannot hold",
            Self::Malformed => "malformed unwind information",
            Self::Trampoline => "return address replaced by a return probe",
            Self::NoRoom => "no room for all frames, raise --max-stacks",
        }
    }

    /// True for the one end that leaves nothing out.
    #[must_use]
    pub const fn is_complete(self) -> bool {
        matches!(self, Self::Outermost)
    }
}

#[cfg(test)]
mod tests {
    use super::Stop;

    #[test]
    fn discriminants_index_the_list_of_all() {
        for (index, stop) in Stop::ALL.into_iter().enumerate() {
            assert_eq!(stop as usize, index);
            assert_eq!(Stop::from_code(index as u32), Some(stop));
        }
        assert_eq!(Stop::from_code(Stop::ALL.len() as u32), None);
    }
}
