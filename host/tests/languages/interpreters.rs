//! What is particular to guests that carry an interpreter: they are large, and compile for long.

use std::time::Instant;

use crate::{
    client::get,
    host::{Host, guest},
};

#[tokio::test]
async fn they_get_larger_slots_by_themselves() {
    for name in ["counter-js", "counter-py"] {
        let host = Host::start(name, "memory:", &[]);
        assert!(host.banner.contains("pool of 100"), "{}", host.banner);
    }
}

#[tokio::test]
async fn compiling_shows_its_progress_and_a_warm_cache_starts_at_once() {
    let file = guest("counter-py");
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
    let log = host.log();
    assert!(
        log.contains("compiling ") && log.contains("the next start finds it compiled"),
        "{log}"
    );
    drop(host);
    let (host, warm) = start();
    assert!(!host.log().contains("compiling "), "{}", host.log());
    assert_eq!(get(host.address, "/report").await.count(), 0);
    println!("{}: {cold:?} cold, {warm:?} warm", file.display());
    // No judgement by the clock, but what is compiled is not compiled again.
    assert!(warm < cold);
}
