//! What one operation costs from the handle to the backend and back, by how many come at once.
//!
//! A wave of increments goes to a worker's handle together, as from as many requests, and is combined
//! into a batch or two. A wave of one is a batch's round trip; of 512, that and the combiner's work for
//! each. `memory:` has neither. Redis and PostgreSQL are servers of their own on this machine, that
//! sync what they acknowledge; without them, they are left out.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a benchmark that fails should stop where it fails"
)]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::future::try_join_all;
use tally_state::{Bucket, Handle, Metrics, Options, State};
use tally_testkit::{Durability, Postgres, Redis};

/// Operations that come at once.
const WAVES: [u32; 4] = [1, 8, 64, 512];

/// Keys, where there are many: more than a wave has operations.
const KEYS: u32 = 10_000;

fn operations(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    backend(criterion, "memory", "memory:");
    let path = dir.path().join("bench.db");
    backend(criterion, "sqlite", &format!("sqlite:{}", path.display()));
    match Redis::start() {
        Ok(redis) => backend(criterion, "redis", &redis.url()),
        Err(error) => eprintln!("redis is left out: {error:#}"),
    }
    match Postgres::start(Durability::Synced) {
        Ok(postgres) => backend(criterion, "postgres", &postgres.url()),
        Err(error) => eprintln!("postgres is left out: {error:#}"),
    }
}

fn backend(criterion: &mut Criterion, name: &str, url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let state = runtime.block_on(State::open(url, Options::default(), Metrics::default())).unwrap();
    let handle = runtime.block_on(async { state.worker() });
    let bucket = Bucket::new("bench").unwrap();
    let mut group = criterion.benchmark_group(format!("increment/{name}"));
    group.measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    for wave in WAVES {
        group.throughput(Throughput::Elements(wave.into()));
        group.bench_function(BenchmarkId::new("one key", wave), |bencher| {
            bencher.iter(|| runtime.block_on(increments(&handle, &bucket, wave, |_| 0)));
        });
        let mut next = 0;
        group.bench_function(BenchmarkId::new("many keys", wave), |bencher| {
            bencher.iter(|| {
                next = (next + wave) % KEYS;
                runtime.block_on(increments(&handle, &bucket, wave, |number| next + number));
            });
        });
    }
    group.finish();
}

/// A wave of increments, each with a key of its number.
async fn increments(handle: &Handle, bucket: &Bucket, wave: u32, key: impl Fn(u32) -> u32) {
    let increments = (0..wave).map(|number| {
        let key = format!("key{}", key(number));
        async move { handle.increment(bucket, &key, 1).await }
    });
    try_join_all(increments).await.unwrap();
}

criterion_group!(benches, operations);
criterion_main!(benches);
