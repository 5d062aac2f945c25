//! The table of interfaces in `docs/guests.md`: what holds each row does so.
//!
//! A row names in its last cell what holds it, from the project's root:
//!
//! - `guest/NAME`, a guest that imports what the row names. Together a row's guests import each of its interfaces
//!   in each of its versions, the host links them as they are, and a test here runs each of them;
//! - or a file of tests, for what no guest can show.
//!
//! That the table has all interfaces that the host offers, and no others, is tested where the host lists them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::host::{guest, tally};

/// How the page writes the version of what has none.
const NONE: &str = "none";

/// Fewer rows than this were not read.
const FEWEST_ROWS: usize = 12;

struct Row {
    line: String,
    names: Vec<String>,
    versions: Vec<String>,
    held_by: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows() -> Vec<Row> {
    let page = fs::read_to_string(root().join("docs/guests.md")).unwrap();
    let (_, table) = page.split_once("| interface | versions |").expect("the table is there");
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(quoted).collect();
        let [names, versions, _, _, held_by] = <[_; 5]>::try_from(cells).expect("five cells");
        assert!(![&names, &versions, &held_by].iter().any(|cell| cell.is_empty()), "{line}");
        Row { line: line.to_owned(), names, versions, held_by }
    };
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|')).map(row);
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() >= FEWEST_ROWS, "the table is not read");
    rows
}

/// What a guest imports, as `tally check` names it, without what is said to fail; an error if the host cannot
/// serve it.
fn imports(path: &Path) -> Result<BTreeSet<String>, String> {
    let dir = tempfile::tempdir().unwrap();
    let output = tally(dir.path()).arg("check").arg(path).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    if !output.status.success() {
        return Err(told);
    }
    let imports = told.lines().filter_map(|line| line.strip_prefix("imports"));
    let imports = imports.map(str::trim).filter(|name| !name.ends_with(')'));
    Ok(imports.map(str::to_owned).collect())
}

/// Whether an import is of an interface or package, and a version, of the page.
fn is_of(import: &str, name: &str, version: &str) -> bool {
    let (base, imported) = import.split_once('@').unwrap_or((import, NONE));
    let is_named = base == name || base.split('/').next() == Some(name);
    is_named
        && match version.strip_suffix('x') {
            Some(range) => imported.starts_with(range) && !imported.contains('-'),
            None => imported == version,
        }
}

/// The text of all files of tests in a folder, and in those below it.
fn tests(folder: &Path) -> String {
    let mut tests = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests.push_str(&self::tests(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            tests.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    tests
}

#[test]
fn each_row_of_the_table_is_held_by_guests_or_tests() {
    let tests = tests(&root().join("host/tests/host"));
    let mut faults = Vec::new();
    for Row { line, names, versions, held_by } in rows() {
        let (mut imported, mut is_held_by_guests) = (BTreeSet::new(), false);
        for held_by in held_by {
            let Some(name) = held_by.strip_prefix("guest/") else {
                let file = fs::read_to_string(root().join(&held_by)).unwrap_or_default();
                if !file.contains("test]") {
                    faults.push(format!("{held_by} is no file of tests, in {line}"));
                }
                continue;
            };
            is_held_by_guests = true;
            if !tests.contains(&format!("\"{name}\"")) {
                faults.push(format!("no test runs {held_by}, in {line}"));
            }
            match imports(&guest(name)) {
                Ok(imports) => imported.extend(imports),
                Err(told) => faults.push(format!("{held_by} is not served:\n{told}\nin {line}")),
            }
        }
        for name in names.iter().filter(|_| is_held_by_guests) {
            for version in &versions {
                if !imported.iter().any(|import| is_of(import, name, version)) {
                    faults.push(format!("no guest imports {name} {version}, in {line}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn versions_of_the_table_are_those_of_imports() {
    for (import, name, version, is_same) in [
        ("wasi:io/poll@0.2.6", "wasi:io", "0.2.x", true),
        ("wasi:io/poll@0.2.6", "wasi:io/poll", "0.2.x", true),
        ("wasi:io/poll@0.2.6", "wasi:io/streams", "0.2.x", false),
        ("wasi:io/poll@0.3.0", "wasi:io", "0.2.x", false),
        ("wasi:io/poll@0.2.0-rc", "wasi:io", "0.2.x", false),
        ("wasi:keyvalue/store@0.2.0-draft2", "wasi:keyvalue/store", "0.2.0-draft", false),
        ("wasi:logging/logging", "wasi:logging/logging", NONE, true),
        ("wasi:logging/logging@0.1.0-draft", "wasi:logging/logging", NONE, false),
    ] {
        assert_eq!(is_of(import, name, version), is_same, "{import}, {name} {version}");
    }
}
