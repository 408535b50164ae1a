//! Plain tables for the terminal, and sizes as people read them.

use bytesize::ByteSize;
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

/// Lines above, below and under the heads; rows are close together.
const STYLE: TableStyle = TableStyle::new()
    .top_border(LineStyle::none().fill('─').junction('─'))
    .header_separator(LineStyle::none().fill('═').junction('═'))
    .bottom_border(LineStyle::none().fill('─').junction('─'));

/// A table. A column is to the right where its head begins with `>`: numbers are.
pub(crate) fn grid<const N: usize>(heads: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header(heads.map(|head| head.trim_start_matches('>')));
    for row in rows {
        table.add_row(row);
    }
    for (column, head) in table.column_iter_mut().zip(heads) {
        if head.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A number of bytes: `1.5 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_by_people() {
        assert_eq!([0, 999, 2048, 1_610_612_736].map(size), ["0 B", "999 B", "2.0 KiB", "1.5 GiB"]);
    }

    #[test]
    fn numbers_are_to_the_right() {
        let rows = [["a".into(), "10".into()], ["longer".into(), "9".into()]];
        let lines = ["─".repeat(13), " name      n".into(), "═".repeat(13), " a        10".into()];
        let drawn = grid(["name", ">n"], rows);
        assert_eq!(drawn.lines().take(4).collect::<Vec<_>>(), lines, "\n{drawn}");
    }
}
