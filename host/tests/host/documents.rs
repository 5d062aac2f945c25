//! The documents say what is so: their links lead somewhere, the flags that they name exist, and the settings that they
//! show are taken.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::host::tally;

/// Fewer than this were not found.
const FEWEST_DOCUMENTS: usize = 15;

/// Flags of other programs that documents show, of the recipes and of `tally-bench`.
const OF_OTHERS: &[&str] = &[
    "--all-targets",
    "--backends",
    "--build",
    "--connections",
    "--contenders",
    "--lib",
    "--list",
    "--loads",
    "--locked",
    "--preload-keys",
    "--reconnect",
    "--release",
    "--rounds",
    "--seconds",
    "--sync",
    "--tally-arg",
    "--target",
    "--test",
    "--workspace",
    "--wrk",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All documents of the project, by their paths from its root.
fn documents() -> Vec<(PathBuf, String)> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"])
        .current_dir(root())
        .output()
        .expect("git lists the project's files");
    assert!(listed.status.success(), "{listed:?}");
    let names = String::from_utf8(listed.stdout).unwrap();
    let names = names.split_terminator('\0').map(PathBuf::from);
    // One that was deleted may be listed still.
    let documents: Vec<_> = names
        .filter_map(|name| fs::read_to_string(root().join(&name)).ok().map(|text| (name, text)))
        .collect();
    assert!(documents.len() >= FEWEST_DOCUMENTS, "only {documents:?}");
    documents
}

/// A code block of a document.
struct Block {
    language: String,
    text: String,
}

/// A document's code blocks, and its text without them.
fn blocks(document: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut text) = (Vec::new(), String::new());
    let mut open: Option<Block> = None;
    for line in document.lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(language)) => {
                open = Some(Block { language: language.trim().to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, None) => text.extend([line, "\n"]),
        }
    }
    assert!(open.is_none(), "a code block does not end");
    (blocks, text)
}

/// What a heading is linked by, as GitHub does it: words in lower case, with hyphens, without punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|char| char.is_alphanumeric() || " -_".contains(*char));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

/// The anchors of a document's headings.
fn anchors(document: &str) -> BTreeSet<String> {
    let (_, text) = blocks(document);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|heading| anchor(heading.trim_start_matches('#'))).collect()
}

/// The destinations of a document's links and pictures: what stands between `](` and `)`.
fn links(document: &str) -> Vec<String> {
    let (_, text) = blocks(document);
    // Not what is code within a line.
    let text: String = text.split('`').step_by(2).collect();
    let behind = text.split("](").skip(1);
    behind.filter_map(|rest| rest.split_once(')')).map(|(link, _)| link.trim().to_owned()).collect()
}

#[test]
fn links_lead_somewhere() {
    let (mut broken, mut checked) = (Vec::new(), 0);
    for (name, text) in documents() {
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => name.clone(),
                path => name.parent().unwrap_or(Path::new("")).join(path),
            };
            let is_there = match anchor {
                "" => root().join(&target).exists(),
                anchor => fs::read_to_string(root().join(&target))
                    .is_ok_and(|text| anchors(&text).contains(anchor)),
            };
            if !is_there {
                broken.push(format!("{}: {link}", name.display()));
            }
        }
    }
    assert!(broken.is_empty(), "these lead nowhere: {broken:#?}");
    assert!(checked > 20, "only {checked} links were found");
}

/// The flags in a text: `--` and a name, where a word begins.
fn flags(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || "-_".contains(char)));
    let named = words.filter(|word| {
        word.strip_prefix("--").is_some_and(|name| {
            name.starts_with(|first: char| first.is_ascii_lowercase()) && !name.ends_with('-')
        })
    });
    named.map(str::to_owned).collect()
}

/// The flags of all commands.
fn known_flags() -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let help = |command: &[&str]| {
        let output = tally(dir.path()).args(command).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    // The commands stand first on their lines, under a heading of their own.
    let commands = |help: &str| -> Vec<String> {
        let (_, list) = help.split_once("Commands:\n").unwrap_or_default();
        let lines = list.lines().take_while(|line| line.starts_with("  "));
        let names = lines.filter_map(|line| line.split_whitespace().next());
        names.filter(|name| *name != "help").map(str::to_owned).collect()
    };
    let mut known = flags(&help(&[]));
    for command in commands(&help(&[])) {
        let its = help(&[&command]);
        known.extend(flags(&its));
        for under in commands(&its) {
            known.extend(flags(&help(&[&command, &under])));
        }
    }
    assert!(known.contains("--store") && known.contains("--if-absent"), "{known:?}");
    known
}

#[test]
fn flags_that_documents_name_exist() {
    let known = known_flags();
    let mut unknown = Vec::new();
    // Of `tally-bench`, whose own they are.
    let documents = documents().into_iter().filter(|(name, _)| !name.starts_with("bench"));
    for (name, text) in documents {
        let told = flags(&text);
        let missing = told.iter().filter(|flag| !known.contains(*flag));
        let missing = missing.filter(|flag| !OF_OTHERS.contains(&flag.as_str()));
        unknown.extend(missing.map(|flag| format!("{}: {flag}", name.display())));
    }
    assert!(unknown.is_empty(), "no command has these: {unknown:#?}");
}

#[test]
fn settings_that_documents_show_are_taken() {
    let (mut refused, mut taken) = (Vec::new(), 0);
    for (name, text) in documents() {
        let settings = blocks(&text).0.into_iter().filter(|block| block.language == "toml");
        // What a guest in Rust is built by is no setting of the host.
        let settings = settings.filter(|block| !block.text.contains("[package]"));
        for Block { text, .. } in settings.filter(|block| !block.text.contains("[lib]")) {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("tally.toml"), &text).unwrap();
            let output = tally(dir.path()).arg("config").output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                taken += 1;
            } else {
                refused.push(format!("{}: {errors}\n{text}", name.display()));
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    assert!(taken >= 8, "only {taken} were found");
}
