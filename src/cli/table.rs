//! Text tables.

use std::fmt;

/// Rows of text under a heading, in aligned columns.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
    paint: Option<Paint>,
}

/// Colours the cells of one column by their text.
pub(super) struct Paint {
    pub(super) column: usize,
    pub(super) colour: fn(&str) -> Option<Colour>,
}

/// ANSI colour numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(heading: [&str; N]) -> Self {
        Self {
            rows: vec![heading.map(str::to_owned)],
            paint: None,
        }
    }

    /// Adds colours, for terminals; they do not change the widths.
    pub(super) fn painted(mut self, paint: Option<Paint>) -> Self {
        self.paint = paint;
        self
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    fn colour(&self, column: usize, cell: &str) -> Option<Colour> {
        let paint = self.paint.as_ref().filter(|paint| paint.column == column)?;
        (paint.colour)(cell)
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(columns(cell));
            }
        }
        for row in &self.rows {
            let mut line = String::new();
            for (column, (width, cell)) in widths.iter().zip(row).enumerate() {
                match self.colour(column, cell) {
                    Some(colour) => line.push_str(&format!("\x1b[{}m{cell}\x1b[0m", colour as u8)),
                    None => line.push_str(cell),
                }
                line.extend(std::iter::repeat_n(' ', width - columns(cell) + 2));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Counts terminal columns; Chinese characters take two.
fn columns(text: &str) -> usize {
    text.chars()
        .map(|character| match character {
            '\u{1100}'..='\u{115f}'
            | '\u{2e80}'..='\u{a4cf}'
            | '\u{ac00}'..='\u{d7a3}'
            | '\u{f900}'..='\u{faff}'
            | '\u{fe30}'..='\u{fe6f}'
            | '\u{ff00}'..='\u{ff60}' => 2,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["A", "BB", "C"]);
        table.row(["错误".to_owned(), "x".to_owned(), "end".to_owned()]);
        table.row(["four".to_owned(), "yyy".to_owned(), String::new()]);
        assert_eq!(
            table.to_string(),
            "A     BB   C\n错误  x    end\nfour  yyy\n"
        );
    }

    #[test]
    fn colours_do_not_change_widths() {
        let colour = |cell: &str| (cell == "bad").then_some(Colour::Red);
        let paint = Paint { column: 0, colour };
        let mut table = Table::new(["STATE", "X"]).painted(Some(paint));
        table.row(["bad".to_owned(), "bad".to_owned()]);
        assert_eq!(table.to_string(), "STATE  X\n\x1b[31mbad\x1b[0m    bad\n");
    }
}
