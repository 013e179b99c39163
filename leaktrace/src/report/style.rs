//! How the text report looks: what is shown, how wide, and in which colours.

use anstyle::Style;

/// What one part of the text report sums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GroupBy {
    /// A site: one stack of one process.
    #[default]
    Stack,
    /// All sites whose blocks hold objects of one class.
    Type,
}

/// How the report is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextStyle {
    /// Sites to show; `None` for all. What is not shown is summed in the last line.
    pub top: Option<usize>,
    /// Whether each outstanding block is listed under its site.
    pub show_allocs: bool,
    /// Whether it says who holds the blocks that can still be reached.
    pub holders: bool,
    /// What each of its parts sums.
    pub group_by: GroupBy,
    /// Whether to use terminal colours.
    pub color: bool,
    /// Columns that lines of frames should fit into; `None` for no limit.
    pub width: Option<usize>,
}

/// Puts terminal colours around text, where they are wanted.
#[derive(Clone, Copy)]
pub struct Paint {
    color: bool,
}

impl Paint {
    /// As this style says.
    pub fn of(style: TextStyle) -> Self {
        Self { color: style.color }
    }

    /// `text` in a style.
    pub fn with(self, style: Style, text: &str) -> String {
        if self.color && !text.is_empty() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}
