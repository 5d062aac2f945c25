//! What is particular to guests that carry an interpreter: they are large, and compile for long.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use crate::{client::get, host::Host};

#[tokio::test]
async fn they_get_larger_slots_by_themselves() {
    for name in ["counter-js", "counter-py", "counter-py-p3"] {
        let host = Host::start(name, "memory:", &[]);
        assert!(host.banner.contains("pool of 100"), "{}", host.banner);
    }
}

#[tokio::test]
async fn compiling_shows_its_progress_and_the_next_start_finds_it_compiled() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    let start = || {
        let started = Instant::now();
        // A home of its own has a cache of its own.
        let host = Host::start_with("counter-py", |command| {
            command.env("HOME", &home).env_remove("XDG_CACHE_HOME").args(["--store", "memory:"]);
        });
        (host, started.elapsed())
    };
    let (host, cold) = start();
    let log = host.wait_for_log("the next start finds it compiled");
    assert!(log.contains("compiling "), "{log}");
    drop(host);
    let compiled = compiled(&home);
    assert_eq!(compiled.len(), 1, "{compiled:?}");
    let (host, warm) = start();
    assert_eq!(get(host.address, "/report").await.count(), 0);
    assert_eq!(self::compiled(&home), compiled, "nothing was compiled again");
    println!("{cold:?} cold, {warm:?} warm");
}

/// What wasmtime's cache holds below a folder, without the statistics that it keeps beside each.
fn compiled(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(compiled(&path));
        } else if path.extension().is_none() {
            found.push(path);
        }
    }
    found
}
