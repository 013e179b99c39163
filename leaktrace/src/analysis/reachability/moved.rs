//! Blocks are known by their positions, which change as blocks come and go.

/// No block, node or site.
pub const NONE: u32 = u32::MAX;

/// How the positions of blocks at two times belong together. [`NONE`] is a block that was not there.
#[derive(Debug, Clone)]
pub(super) struct Moved {
    /// By the position now, the one then.
    pub(super) then: Vec<u32>,
    /// By the position then, the one now.
    pub(super) now: Vec<u32>,
}

impl Moved {
    /// Where a block is now.
    pub(super) fn now(&self, then: u32) -> Option<u32> {
        self.now.get(then as usize).copied().filter(|now| *now != NONE)
    }

    /// Of two moves, one after the other, the whole.
    pub(super) fn after(&self, earlier: &Self) -> Self {
        let follow = |map: &[u32], at: u32| map.get(at as usize).copied().unwrap_or(NONE);
        Self {
            then: self.then.iter().map(|between| follow(&earlier.then, *between)).collect(),
            now: earlier.now.iter().map(|between| follow(&self.now, *between)).collect(),
        }
    }
}
