//! Holds `docs/limits.md` equal to the code.
//!
//! Flags are compared with their help, and that with the defaults. Constants, and the fields of
//! defaults, are found in the file that the page names and are computed from what is written there, so
//! that they need not be visible here.

use std::{collections::HashSet, fs, path::PathBuf};

use clap::{Args as _, Command};

use super::options::Options;

/// Flags whose value is a number, size or time that limits nothing.
const NO_LIMITS: [&str; 4] = ["--workers", "--cpu-weight", "--redirect-to", "--follow-interval"];

struct Row {
    default: String,
    name: String,
    file: String,
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn rows() -> Vec<Row> {
    let page = fs::read_to_string(root().join("docs/limits.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, default, name, file, beyond] = cells[..] else { panic!("not five cells: {line}") };
        assert!(!beyond.is_empty(), "{line}");
        let plain = |cell: &str| cell.trim_matches('`').to_owned();
        Row { default: default.to_owned(), name: plain(name), file: plain(file) }
    };
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| limit");
    page.lines().filter(is_row).filter(|line| !line.starts_with("| ---")).map(row).collect()
}

/// What a constant, or a field of defaults, is in its file: a number, or nanoseconds.
fn in_code(row: &Row) -> u128 {
    let text = fs::read_to_string(root().join(&row.file))
        .unwrap_or_else(|error| panic!("{} of {}: {error}", row.file, row.name));
    let start = match row.name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
        true => format!("const {}: ", row.name),
        false => format!("            {}: ", row.name),
    };
    let found =
        text.split_once(&start).unwrap_or_else(|| panic!("no {} in {}", row.name, row.file));
    let expression = found.1.split([';', '\n']).next().unwrap_or_default().trim_end_matches(',');
    compute(expression.rsplit_once(" = ").map_or(expression, |(_, value)| value))
}

/// `1_000`, `64 << 10`, `24 * 60 * 60` or `Duration::from_secs(30)`.
fn compute(expression: &str) -> u128 {
    let inner = |unit: &str| expression.strip_prefix(unit)?.strip_suffix(')');
    for (unit, nanoseconds) in
        [("Duration::from_secs(", 1_000_000_000), ("Duration::from_millis(", 1_000_000)]
    {
        if let Some(inner) = inner(unit) {
            return compute(inner) * nanoseconds;
        }
    }
    if let Some((left, right)) = expression.split_once(" << ") {
        return compute(left) << compute(right);
    }
    if let Some((left, right)) = expression.split_once(" * ") {
        return compute(left) * compute(right);
    }
    let digits = expression.trim().replace('_', "");
    digits.parse().unwrap_or_else(|_| panic!("cannot compute {expression}"))
}

/// The same as people write it: `1,000`, `64 KiB`, `30 s`.
fn read(default: &str) -> u128 {
    let (digits, unit) = default.split_once(' ').unwrap_or((default, ""));
    let factor = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "s" => 1_000_000_000,
        "ms" => 1_000_000,
        _ => panic!("{default} has an unknown unit"),
    };
    digits.replace(',', "").parse::<u128>().unwrap_or_else(|_| panic!("{default}")) * factor
}

/// Flags with the defaults that their help tells.
fn flags() -> Vec<(String, String)> {
    let command = Options::augment_args(Command::new("tally"));
    let flag = |argument: &clap::Arg| {
        let help = argument.get_help()?.to_string();
        let default = help.split_once("[default: ")?.1.trim_end_matches(']').to_owned();
        let value = argument.get_value_names()?.first()?.to_string();
        let is_limit = ["N", "SIZE", "TIME"].contains(&value.as_str());
        is_limit.then(|| (format!("--{}", argument.get_long().unwrap_or_default()), default))
    };
    command.get_arguments().filter_map(flag).collect()
}

#[test]
fn each_constant_on_the_page_is_that_of_the_code() {
    let rows = rows();
    let constants: Vec<&Row> = rows.iter().filter(|row| !row.name.starts_with("--")).collect();
    assert!(constants.len() > 30, "the page is not read");
    for row in constants {
        assert_eq!(read(&row.default), in_code(row), "{} in {}", row.name, row.file);
    }
}

#[test]
fn each_flag_is_on_the_page_with_the_default_of_its_help() {
    let (rows, flags) = (rows(), flags());
    assert!(flags.len() > 20, "the flags are not read");
    for (flag, default) in &flags {
        let row = rows.iter().find(|row| row.name == *flag);
        match row {
            Some(row) => assert_eq!(row.default, *default, "{flag}"),
            None => assert!(
                NO_LIMITS.contains(&flag.as_str()),
                "{flag} limits something and is not in docs/limits.md"
            ),
        }
    }
    for row in rows.iter().filter(|row| row.name.starts_with("--")) {
        assert!(flags.iter().any(|(flag, _)| *flag == row.name), "there is no {}", row.name);
        let path = root().join(&row.file);
        assert!(path.exists(), "{}: there is no {}", row.name, row.file);
    }
}

#[test]
fn the_help_tells_the_defaults_that_there_are() {
    let table = toml::Table::try_from(Options::default().or_defaults()).unwrap();
    for (flag, told) in flags() {
        let Some(value) = table.get(flag.trim_start_matches('-')) else { continue };
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        // Those depend on the machine.
        if !["--workers", "--max-connections"].contains(&flag.as_str()) {
            assert_eq!(told, value, "{flag}");
        }
    }
}

/// Constants that are named as limits and are none of a user's business.
const INTERNAL: [&str; 17] = [
    "host/src/edge/limits.rs MOST_CONNECTIONS",
    "host/src/edge/metrics.rs MOST_USED",
    "host/src/interfaces/blobstore/upload.rs MOST_IDS",
    "host/src/interfaces/spin/postgres/numeric.rs MOST_DIGITS",
    "host/src/interfaces/spin/redis.rs MAX_DEPTH",
    "host/src/releases/follower.rs MOST_AT_ONCE",
    "host/src/releases/follower.rs MOST_FAILURES",
    "host/src/releases/follower.rs MOST_FALLBACKS",
    "host/src/releases/store.rs MOST_BEHIND",
    "host/src/releases/store.rs MOST_TRIES",
    "host/src/runtime/turns.rs MOST_SEEN",
    "host/src/server/mod.rs MOST_TOLD",
    "host/src/server/orphans.rs MOST_NAMED",
    "host/state/src/backend/postgres/session.rs MOST_GIVEN_UP",
    "host/state/src/backend/redis.rs MOST_TOGETHER",
    "host/state/src/handle.rs MOST_READS",
    "host/state/src/hold.rs MOST_SKIPPED",
];

#[test]
fn each_constant_that_is_named_as_a_limit_is_on_the_page() {
    let rows = rows();
    let known: HashSet<String> =
        rows.iter().map(|row| format!("{} {}", row.file, row.name)).collect();
    let mut folders = vec![root().join("host/src"), root().join("host/state/src")];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let file = path.strip_prefix(root()).unwrap().display().to_string();
            for line in text.lines().filter(|line| !line.starts_with(' ')) {
                let Some((_, rest)) = line.split_once("const M") else { continue };
                let name = format!("M{}", rest.split(':').next().unwrap_or_default());
                if !["MAX_", "MOST_"].iter().any(|start| name.starts_with(start)) {
                    continue;
                }
                found += 1;
                let this = format!("{file} {name}");
                assert!(
                    known.contains(&this) || INTERNAL.contains(&this.as_str()),
                    "{this} is not in docs/limits.md; add a row, or to INTERNAL what is no user's business"
                );
            }
        }
    }
    assert!(found > 20, "the code is not read");
}
