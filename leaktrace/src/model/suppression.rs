//! Suppressions: the rules that hide blocks, and the kinds of blocks that they hide.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::verdict::{Reachability, Tally, Verdict};

/// A rule of a suppression file, by which it is known to users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its name; rules of one file may share a name.
    pub name: String,
    /// The file's path as given, or [`Rule::BUILT_IN`].
    pub source: String,
}

impl Rule {
    /// The source of the rules that leaktrace brings along.
    pub const BUILT_IN: &str = "built-in";

    /// Whether leaktrace has brought the rule along.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.source == Self::BUILT_IN
    }
}

/// Blocks of a site that a rule hides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// The rule.
    pub rule: Arc<Rule>,
    /// The kinds of blocks; without a verdict on the site all of its blocks are hidden, whatever stands here.
    pub kinds: Kinds,
}

/// A set of kinds of blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Reachability>", into = "Vec<Reachability>")]
pub struct Kinds(u8);

impl Kinds {
    /// Every kind.
    pub const ALL: Self = Self(0b11_1111);
    /// Those of lost blocks: definitely and indirectly lost, which count as leaked, and probably lost.
    pub const LOST: Self = Self(0b10_0011);

    /// Whether the kind is in it.
    #[must_use]
    pub fn contains(self, kind: Reachability) -> bool {
        self.0 & Self::bit(kind) != 0
    }

    /// What is in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in it and not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn bit(kind: Reachability) -> u8 {
        match kind {
            Reachability::DefinitelyLost => 1,
            Reachability::IndirectlyLost => 2,
            Reachability::ProbablyLost => 32,
            Reachability::PossiblyLost => 4,
            Reachability::StillReachable => 8,
            Reachability::Undecided | Reachability::Unknown => 16,
        }
    }
}

impl<const N: usize> From<[Reachability; N]> for Kinds {
    fn from(kinds: [Reachability; N]) -> Self {
        kinds.into_iter().collect()
    }
}

impl From<Vec<Reachability>> for Kinds {
    fn from(kinds: Vec<Reachability>) -> Self {
        kinds.into_iter().collect()
    }
}

impl From<Kinds> for Vec<Reachability> {
    fn from(kinds: Kinds) -> Self {
        Reachability::ALL.into_iter().filter(|kind| kinds.contains(*kind)).collect()
    }
}

impl FromIterator<Reachability> for Kinds {
    fn from_iter<I: IntoIterator<Item = Reachability>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |set, kind| set | Self::bit(kind)))
    }
}

impl Verdict {
    /// The blocks of some kinds.
    #[must_use]
    pub fn sum(&self, kinds: Kinds) -> Tally {
        let of_these = Reachability::ALL.into_iter().filter(|kind| kinds.contains(*kind));
        of_these.fold(Tally::default(), |mut sum, kind| {
            sum.join(self.of(kind));
            sum
        })
    }

    /// Forgets the blocks of some kinds.
    pub fn clear(&mut self, kinds: Kinds) {
        for kind in Reachability::ALL.into_iter().filter(|kind| kinds.contains(*kind)) {
            *self.of_mut(kind) = Tally::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_name() {
        let kinds = Kinds::from([Reachability::PossiblyLost, Reachability::DefinitelyLost]);
        let text = serde_json::to_string(&kinds).unwrap();
        assert_eq!(text, r#"["definitely_lost","possibly_lost"]"#);
        assert_eq!(serde_json::from_str::<Kinds>(&text).unwrap(), kinds);
    }
}
