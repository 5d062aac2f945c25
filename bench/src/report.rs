//! What is printed in the end: a table for each suite, and what was not as it should be.

use std::fmt::Write as _;

use crate::table::{Layout, Sample, Table};

/// All that was measured so far.
#[derive(Default)]
pub(crate) struct Report {
    surroundings: String,
    tables: Vec<Table>,
    notes: Vec<String>,
}

impl Report {
    /// Says what the numbers depend on.
    pub(crate) fn describe(&mut self, surroundings: String) {
        self.surroundings = surroundings;
    }

    /// Adds a window to the table of its suite.
    pub(crate) fn add(
        &mut self,
        layout: &'static Layout,
        backend: &'static str,
        server: &'static str,
        sample: Sample,
    ) {
        eprintln!("  {:.0} requests/s", sample.rate);
        let mut tables = self.tables.iter_mut();
        match tables.find(|table| table.title() == layout.title) {
            Some(table) => table.add(backend, server, sample),
            None => {
                let mut table = Table::new(layout);
                table.add(backend, server, sample);
                self.tables.push(table);
            }
        }
    }

    /// Adds something that was not as it should be; said now and again below the tables.
    pub(crate) fn note(&mut self, note: String) {
        eprintln!("  !! {note}");
        self.notes.push(note);
    }

    /// The whole in Markdown; empty when nothing was measured.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if self.tables.is_empty() {
            return text;
        }
        let _ = writeln!(text, "{}", self.surroundings);
        for table in &self.tables {
            let _ = write!(text, "\n{}\n\n{}", table.title(), table.text());
        }
        if !self.notes.is_empty() {
            text.push_str("\nNot as it should be:\n");
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Column;

    const FIRST: Layout =
        Layout { title: "first", columns: &[Column::Rate], baseline: "", compared: &[] };
    const SECOND: Layout = Layout { title: "second", ..FIRST };

    #[test]
    fn each_suite_has_a_table_of_its_own() {
        let mut report = Report::default();
        report.describe("here".into());
        for layout in [&FIRST, &SECOND, &FIRST] {
            report.add(layout, "", "", Sample::default());
        }
        report.note("lost".into());
        let table = "| requests/s |\n|-----------:|\n|          0 |\n";
        let text = report.text();
        assert_eq!(
            text,
            format!("here\n\nfirst\n\n{table}\nsecond\n\n{table}\nNot as it should be:\n- lost\n")
        );
    }

    #[test]
    fn nothing_measured_is_no_table() {
        assert_eq!(Report::default().text(), "");
    }
}
