//! Tables and numbers in Markdown, readable as plain text too.

/// A table: a heading for each column, and rows. All columns but the first hold numbers and are aligned to the right.
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows.
    pub fn new(headings: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { headings: headings.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; cells that are missing stay empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let mut row: Vec<String> = cells.into_iter().map(Into::into).collect();
        row.resize(self.headings.len(), String::new());
        self.rows.push(row);
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// As Markdown, each line with its end.
    pub fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| &row[column]).chain([&self.headings[column]]);
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).enumerate();
            let padded =
                cells.map(
                    |(column, (cell, &width))| {
                        if column == 0 { format!(" {cell:width$} |") } else { format!(" {cell:>width$} |") }
                    },
                );
            format!("|{}\n", padded.collect::<String>())
        };
        let rule = widths.iter().enumerate().map(|(column, &width)| {
            let dashes = "-".repeat(width);
            if column == 0 { format!(" {dashes} |") } else { format!(" {}: |", &dashes[1..]) }
        });
        let rule = format!("|{}\n", rule.collect::<String>());
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        line(&self.headings) + &rule + &rows
    }
}

/// A time or a rate: at least two digits that mean something, thousands apart.
pub fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// How many times one thing is another.
pub fn times(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2}"),
        value if value < 100.0 => format!("{value:.1}"),
        value => number(value),
    }
}

#[cfg(test)]
mod tests {
    use super::{Table, number, times};

    #[test]
    fn a_table_is_aligned_and_completed() {
        let mut table = Table::new(["loop", "bare", "floor"]);
        table.row(["flat", "5.6", "1,386"]);
        table.row(["über", "6.0"]);
        let expected = "| loop | bare | floor |\n\
                        | ---- | ---: | ----: |\n\
                        | flat |  5.6 | 1,386 |\n\
                        | über |  6.0 |       |\n";
        assert_eq!(table.render(), expected);
    }

    #[test]
    fn numbers_keep_what_means_something() {
        assert_eq!(
            [5.62, 9.96, 98.7, 1386.4, 21_700.0, 1e6].map(number),
            ["5.6", "10.0", "99", "1,386", "21,700", "1,000,000"]
        );
        assert_eq!([1.274, 13.26, 247.5].map(times), ["1.27", "13.3", "248"]);
    }
}
