//! Aligned columns.

/// Which side of its column a cell keeps to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows of cells under a heading.
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns a table with these columns and no rows.
    pub(super) fn new(columns: &[(&'static str, Align)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; what it lacks is empty.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into_iter().map(|cell| crate::exit::printable(&cell)).collect());
    }

    /// Returns the table as text, or `empty` if it has no rows.
    pub(super) fn render(&self, empty: &str) -> String {
        if self.rows.is_empty() {
            return empty.to_owned();
        }
        let heading: Vec<String> = self.columns.iter().map(|(heading, _)| (*heading).to_owned()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = std::iter::once(&heading).chain(&self.rows);
                cells.filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, (_, align)), wide) in row.iter().zip(&self.columns).zip(&widths) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let padding = " ".repeat(wide.saturating_sub(width(cell)));
                match align {
                    Align::Left => line.extend([cell.as_str(), &padding]),
                    Align::Right => line.extend([padding.as_str(), cell]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Characters, which is close enough to columns for names and numbers.
fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("AT", Align::Left)]);
        table.row(["web".into(), "1.0 KiB".into(), "now".into()]);
        table.row(["longer-name".into(), "0 B".into(), String::new()]);
        let expected = "\
NAME            SIZE  AT
web          1.0 KiB  now
longer-name      0 B
";
        assert_eq!(table.render("none"), expected);
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(Table::new(&[("NAME", Align::Left)]).render("no volumes"), "no volumes");
    }

    #[test]
    fn a_cell_cannot_break_the_line() {
        let mut table = Table::new(&[("PATH", Align::Left)]);
        table.row(["a\nb\x1b[31m".into()]);
        assert_eq!(table.render(""), "PATH\na\\nb\\u{1b}[31m\n");
    }
}
