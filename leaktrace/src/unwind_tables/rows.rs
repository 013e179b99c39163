//! Puts the rows of all functions in order: sorted, gaps marked, overlaps resolved, equal neighbours merged.

use leaktrace_common::unwind::{CHUNK_WORDS, PADDING, Row, Rule};

/// What functions are aligned to; a shorter gap between two of them is padding.
const FUNCTION_ALIGNMENT: u32 = 16;

/// The rows of one FDE: a range of addresses and where its rows lie in the collection.
#[derive(Debug, Clone, Copy)]
struct Function {
    start: u32,
    end: u32,
    first_row: u32,
    rows: u32,
}

/// Rows as they are found, function by function, in any order.
#[derive(Debug, Default)]
pub(super) struct Collection {
    functions: Vec<Function>,
    rows: Vec<Row>,
}

impl Collection {
    /// Begins a function's rows.
    pub fn begin(&mut self, start: u32, end: u32) {
        self.functions.push(Function { start, end, first_row: self.rows.len() as u32, rows: 0 });
    }

    /// Adds a row to the function begun last. Rows must come by rising address; those outside the function are dropped,
    /// and of several for one address the last one holds.
    pub fn push(&mut self, row: Row) {
        let Some(function) = self.functions.last_mut() else { return };
        if row.pc() < function.start || row.pc() >= function.end {
            return;
        }
        if function.rows > 0
            && let Some(last) = self.rows.last_mut()
        {
            if last.pc() >= row.pc() {
                *last = Row::new(last.pc(), row.rule());
                return;
            }
            if last.rule() == row.rule() {
                return;
            }
        }
        function.rows += 1;
        self.rows.push(row);
    }

    /// Rows collected so far, plus one per function for the gap that may follow it.
    pub fn len(&self) -> usize {
        self.rows.len() + self.functions.len()
    }

    /// All rows in order. Where functions overlap, the one that starts later holds from its start on, and of those that
    /// start together the first one: so an address has one rule, and a function that claims everything hides nothing.
    pub fn finish(mut self) -> Vec<Row> {
        self.functions.sort_by_key(|f| f.start);
        self.functions.dedup_by_key(|f| f.start);
        let mut ordered = Vec::with_capacity(self.len());
        for (i, function) in self.functions.iter().enumerate() {
            let next = self.functions.get(i + 1).map_or(u32::MAX, |f| f.start);
            let first = function.first_row as usize;
            for &row in &self.rows[first..first + function.rows as usize] {
                if row.pc() >= next {
                    break;
                }
                push_merged(&mut ordered, row);
            }
            if function.end < next {
                let is_padding = next - function.end < FUNCTION_ALIGNMENT && next != u32::MAX;
                let rule = if is_padding { Rule::PADDING } else { Rule::GAP };
                push_merged(&mut ordered, Row::new(function.end, rule));
            }
        }
        ordered
    }
}

fn push_merged(rows: &mut Vec<Row>, row: Row) {
    if rows.last().is_none_or(|last| last.rule() != row.rule()) {
        rows.push(row);
    }
}

/// The rows as words, padded to whole chunks.
pub(super) fn into_chunk_words(rows: Vec<Row>) -> Vec<u64> {
    let mut words: Vec<u64> = rows.into_iter().map(Row::to_bits).collect();
    let padded = words.len().next_multiple_of(CHUNK_WORDS);
    words.reserve_exact(padded - words.len());
    words.resize(padded, PADDING);
    words
}
