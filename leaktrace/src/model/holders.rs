//! Who holds the blocks that a program can still reach, as far as a leak check found it out.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What kind of word outside of all blocks a block is reached from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootKind {
    /// A variable of a program or library, or memory that the program has mapped itself.
    Data,
    /// What the program has given to the kernel, which hands it back.
    Kernel,
    /// Nothing but that the program wants no leak reported of it.
    Ignored,
    /// A thread's own variables.
    Tls,
    /// A thread's stack.
    Stack,
    /// A thread's registers.
    Registers,
    /// None that is known.
    None,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// One way in which blocks of a site are held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// From where.
    pub root: RootKind,
    /// The word, as a variable's name, and the blocks between it and the site's, each by the function that allocated it.
    pub path: Vec<String>,
    /// How many blocks of the site are held so.
    pub blocks: u64,
    /// Their sizes' sum.
    #[serde(default)]
    pub bytes: u64,
}

/// What one variable alone holds: it would go if the variable went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// What kind of thing the variable is.
    pub root: RootKind,
    /// Its name.
    pub name: String,
    /// How many blocks it holds.
    pub blocks: u64,
    /// Their sizes' sum.
    pub bytes: u64,
}

/// What is known of a site's blocks, in names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// The class of the objects in them.
    pub type_name: Option<Arc<str>>,
    /// Who holds those that can still be reached.
    pub holders: Option<Vec<Holder>>,
}
