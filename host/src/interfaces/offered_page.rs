//! Holds the table of interfaces in `docs/guests.md` equal to the code: a row names interfaces in its first cell
//! and their versions in the second.
//!
//! A list in `offered.rs` that is new is added to [`LISTS`]. That each row's guests import and run what it names is
//! tested from outside, in `host/tests/host/interfaces.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use super::offered::{CONCURRENT, OFFERED};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/guests.md");

/// Packages or interfaces that the host offers, and the versions of each.
const LISTS: [&[(&str, &[&str])]; 2] = [&OFFERED, &CONCURRENT];

/// How the page writes the version of what has none.
const NONE: &str = "none";

type Versions = BTreeSet<String>;

/// What the code offers: names of packages or interfaces, and their versions as the page writes them.
fn offered() -> BTreeMap<String, Versions> {
    let written = |version: &&str| match *version {
        "" => NONE.to_owned(),
        range if range.ends_with('.') => format!("{range}x"),
        exact => exact.to_owned(),
    };
    let mut offered = BTreeMap::<String, Versions>::new();
    for (name, versions) in LISTS.into_iter().flatten() {
        offered.entry((*name).to_owned()).or_default().extend(versions.iter().map(written));
    }
    offered
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What the page says: the same as [`offered`], if it is right.
fn told() -> BTreeMap<String, Versions> {
    let page = fs::read_to_string(PAGE).unwrap();
    let (_, table) = page.split_once("| interface | versions |").expect("the table is there");
    let mut told = BTreeMap::<String, Versions>::new();
    for line in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [names, versions, does, lacks, held_by] = cells[..] else {
            panic!("not five cells: {line}")
        };
        assert!(![names, versions, does, lacks, held_by].contains(&""), "an empty cell: {line}");
        for name in quoted(names) {
            told.entry(name).or_default().extend(quoted(versions));
        }
    }
    told
}

#[test]
fn each_interface_on_the_page_is_offered_and_each_that_is_offered_is_on_the_page() {
    let (offered, told) = (offered(), told());
    assert!(offered.len() > 15, "the code is not read");
    for (name, versions) in &offered {
        assert_eq!(
            told.get(name),
            Some(versions),
            "{name} is offered in these versions, and docs/guests.md says otherwise"
        );
    }
    for name in told.keys() {
        assert!(offered.contains_key(name), "{name} is in docs/guests.md and is not offered");
    }
}
