//! A name for a site that stays the same from report to report and from run to run.

use std::fmt;
use std::hash::Hasher;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use twox_hash::XxHash64;

/// A hash of a stack's code: of each frame the build id of its object and the offset in it. Addresses, which differ from
/// process to process, are not part of it, nor is the process: two processes of one program have sites with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(u64);

/// Where a frame's code comes from, as far as that does not change between runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code<'a> {
    /// An object with a build id, and the last byte of the call in its own numbering.
    Built(&'a [u8], u64),
    /// A file without a build id: its path, and the same offset.
    File(&'a [u8], u64),
    /// Code made at run time, by its function's name.
    Made(&'a str),
    /// Code of which nothing lasting is known.
    Unknown,
}

impl SiteId {
    /// The id of a stack, innermost frame first. Inlined calls are no frames of their own: debug information that is installed
    /// later must not change it.
    pub fn of<'a>(stack: impl IntoIterator<Item = Code<'a>>) -> Self {
        // The algorithm is part of the interface: ids in today's files must match those of later versions.
        let mut hash = XxHash64::with_seed(0);
        for code in stack {
            let (kind, name, offset) = match code {
                Code::Built(id, offset) => (1, id, offset),
                Code::File(path, offset) => (2, path, offset),
                Code::Made(name) => (3, name.as_bytes(), 0),
                Code::Unknown => (4, &[][..], 0),
            };
            hash.write(&[kind]);
            hash.write(&(name.len() as u64).to_le_bytes());
            hash.write(name);
            hash.write(&offset.to_le_bytes());
        }
        Self(hash.finish())
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for SiteId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SiteId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = is_one.then(|| u64::from_str_radix(&text, 16).ok()).flatten();
        id.map(Self).ok_or_else(|| D::Error::custom(format!("{text:?} is not an id of 16 hexadecimal digits")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_do_not_change_between_versions() {
        let stack = [Code::Built(&[1, 2, 3], 0x1234), Code::File(b"/bin/a", 7), Code::Made("f"), Code::Unknown];
        assert_eq!(SiteId::of(stack).to_string(), "af501a5cce126bf1");
        assert_eq!(SiteId::of([]).to_string(), "ef46db3751d8e999", "the hash of nothing, as its specification has it");
    }

    #[test]
    fn what_differs_has_another_id() {
        let all = [
            vec![],
            vec![Code::Unknown],
            vec![Code::Unknown, Code::Unknown],
            vec![Code::Built(b"ab", 1)],
            vec![Code::File(b"ab", 1)],
            vec![Code::Built(b"ab", 2)],
            vec![Code::Built(b"a", 1), Code::Built(b"b", 1)],
            vec![Code::Built(b"b", 1), Code::Built(b"a", 1)],
            vec![Code::Made("ab")],
        ];
        let ids: std::collections::BTreeSet<_> = all.iter().map(|stack| SiteId::of(stack.iter().copied())).collect();
        assert_eq!(ids.len(), all.len());
    }

    #[test]
    fn an_id_comes_back() {
        let id = SiteId::of([Code::Made("f")]);
        assert_eq!(serde_json::from_str::<SiteId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        assert!(serde_json::from_str::<SiteId>("\"12\"").is_err());
        assert!(serde_json::from_str::<SiteId>("\"+123456789abcdef\"").is_err());
    }
}
