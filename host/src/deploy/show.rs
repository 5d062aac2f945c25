//! What commands print for people.

use serde_json::Value;

use super::text;

/// Cells in columns that are as wide as what is in them.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn head(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".into() } else { text.to_owned() }
}

fn number(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".into(), |number| number.to_string())
}

/// `tally ps`.
pub(super) fn guests(guests: &Value) -> String {
    let mut rows = vec![head(&["GUEST", "ROUTE", "RELEASE", "VERSION", "FROM", "WEIGHT", "STATE"])];
    let mut notes = Vec::new();
    for guest in list(guests) {
        let here = &guest["here"];
        let from = match guest["supersedes"] == true {
            true => "release, instead of tally.toml".into(),
            false => or_dash(text(guest, "source")),
        };
        let state = match (list(&guest["failed"]).count(), here["loaded"] == true) {
            (0, true) => "loaded".into(),
            (0, false) => "not loaded".into(),
            (count, _) => format!("fails on {count} hosts"),
        };
        rows.push(vec![
            text(guest, "name").into(),
            or_dash(text(guest, "route")),
            number(&guest["release"]),
            or_dash(text(here, "version")),
            from,
            number(&here["weight"]),
            state,
        ]);
        for failed in list(&guest["failed"]) {
            notes.push(format!(
                "'{}' on {} ({}): {}",
                text(guest, "name"),
                text(failed, "host"),
                text(failed, "admin"),
                text(failed, "reason"),
            ));
        }
    }
    let mut shown = table(&rows);
    for note in notes {
        shown.push('\n');
        shown.push_str(&note);
    }
    shown
}

/// `tally hosts`.
pub(super) fn hosts(hosts: &Value) -> String {
    let mut rows =
        vec![head(&["HOST", "ADMIN", "VERSION", "STARTED", "REVISION", "LOADING", "FAILED"])];
    for host in list(hosts) {
        let failed: Vec<&str> = list(&host["failed"]).map(|failed| text(failed, "guest")).collect();
        let loading: Vec<&str> = list(&host["loading"]).filter_map(Value::as_str).collect();
        rows.push(vec![
            text(host, "host").into(),
            text(host, "admin").into(),
            text(host, "version").into(),
            text(host, "started").into(),
            number(&host["revision"]),
            or_dash(&loading.join(",")),
            or_dash(&failed.join(",")),
        ]);
    }
    table(&rows)
}

/// `tally history`.
pub(super) fn history(entries: &Value) -> String {
    let mut rows = vec![head(&["ENTRY", "TIME", "WHAT", "RELEASE", "VERSION", "WHO", "NOTE"])];
    for entry in list(entries) {
        let digest = text(entry, "digest");
        rows.push(vec![
            number(&entry["number"]),
            text(entry, "time").into(),
            text(entry, "kind").into(),
            number(&entry["release"]),
            or_dash(digest.get(..12).unwrap_or(digest)),
            text(entry, "who").into(),
            text(entry, "note").into(),
        ]);
    }
    table(&rows)
}
