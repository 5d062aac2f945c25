//! `wasi:blobstore` as a guest sees it, on every backend.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tally_testkit::{Durability, Postgres, Redis};
use tokio::time::timeout;

use crate::{client::Client, host::Host};

/// Sizes about the ends of what is kept in one key and of pieces.
const SIZES: [usize; 9] = [0, 1, 65_535, 65_536, 65_537, 524_288, 524_289, 1_048_576, 1_500_000];

struct Probe(Client);

impl Probe {
    async fn of(address: SocketAddr) -> Self {
        Self(Client::connect(address).await)
    }

    async fn says(&mut self, target: &str, expected: &str) {
        let response = self.0.get(target).await;
        assert_eq!(response.text(), expected, "{target}: {response:?}");
        assert_eq!(response.status, 200, "{target}");
    }

    async fn fails(&mut self, target: &str, part: &str) {
        let response = self.0.get(target).await;
        assert_eq!(response.status, 500, "{target}: {response:?}");
        assert!(response.text().contains(part), "{target}: {response:?}");
    }
}

/// Patient, as a machine that is busy with other tests takes its time, and no load is to be shed here.
const FLAGS: [&str; 8] = [
    "--bucket",
    "files",
    "--bucket",
    "other=stored",
    "--blob-limit",
    "3MiB",
    "--queue-timeout",
    "1m",
];

async fn does_everything(store: &str) {
    let host = Host::start("probe-blobstore", store, &FLAGS);
    let mut probe = Probe::of(host.address).await;

    // Containers.
    probe.says("/exists?files", "false").await;
    probe.fails("/container?files", "create it first").await;
    probe.says("/create?files", "files").await;
    probe.says("/create?files", "files").await;
    probe.says("/exists?files", "true").await;
    probe.says("/container?files", "files since true").await;
    probe.fails("/create?elsewhere", "no bucket of that name").await;
    probe.says("/exists?elsewhere", "false").await;
    probe.fails("/create?tally.x", "denied").await;

    // Objects of all sizes, written in the ways that guests have.
    for (seed, size) in SIZES.into_iter().enumerate() {
        for (way, name) in [("write", "first"), ("write-then-place", "then")] {
            probe.says(&format!("/{way}?files,{name},{seed},{size}"), "written").await;
            let whole =
                if size == 0 { "0 bytes".into() } else { format!("{size} bytes of {seed}") };
            probe.says(&format!("/read?files,{name},0,{size}"), &whole).await;
            probe.says(&format!("/stream?files,{name},0,{size}"), &whole).await;
        }
        let info = format!("files/first of {size} bytes, true");
        probe.says("/info?files,first", &info).await;
    }

    // Parts of one: both ends are included, and the last may be beyond the object.
    for (start, end, length) in [
        (0, 0, 1),
        (65_535, 65_536, 2),
        (524_287, 524_288, 2),
        (524_288, 1_048_575, 524_288),
        (1, 1_400_000, 1_400_000),
        (1_499_999, 1_499_999, 1),
        (1_499_999, 9_999_999, 1),
    ] {
        for way in ["read", "stream"] {
            let told = format!("{length} bytes of 8");
            probe.says(&format!("/{way}?files,first,{start},{end}"), &told).await;
        }
    }
    probe.fails("/read?files,first,1500000,1500001", "there is nothing").await;
    probe.fails("/read?files,first,5,4", "there is nothing").await;
    probe.fails("/read?files,nothing,0,1", "there is no object 'nothing'").await;

    // What is not finished never was.
    probe.says("/write-half?files,first,1,1500000", "not finished").await;
    probe.says("/write-half?files,half,1,1500000", "not finished").await;
    probe.says("/read?files,first,0,1499999", "1500000 bytes of 8").await;
    probe.says("/has?files,half", "false").await;
    probe.says("/list?files", "first,then").await;

    // Limits.
    probe.says("/write?files,large,1,3145728", "written").await;
    probe.fails("/write?files,large,2,3145729", "over the limit").await;
    probe.says("/stream?files,large,0,3145727", "3145728 bytes of 1").await;
    probe.fails("/write?files,,1,1", "must not be empty").await;
    let long = "n".repeat(993);
    probe.fails(&format!("/write?files,{long},1,1"), "over the limit of 992 bytes").await;
    probe.says(&format!("/write?files,{},1,1", &long[1..]), "written").await;
    probe.says(&format!("/delete?files,{}", &long[1..]), "done").await;

    // Copies and moves.
    probe.fails("/copy?files,large,other,copy", "create it first").await;
    probe.says("/create?other", "other").await;
    probe.says("/copy?files,large,other,copy", "done").await;
    probe.says("/move?files,first,files,moved", "done").await;
    probe.says("/delete?files,large", "done").await;
    probe.says("/stream?other,copy,0,3145727", "3145728 bytes of 1").await;
    probe.says("/read?files,moved,0,1499999", "1500000 bytes of 8").await;
    probe.says("/has?files,first", "false").await;
    probe.says("/copy?files,moved,files,moved", "done").await;
    probe.says("/move?files,moved,files,moved", "done").await;
    probe.says("/has?files,moved", "true").await;
    probe.fails("/copy?files,nothing,other,copy", "there is no object").await;
    probe.says("/list?other", "copy").await;

    // Deleting, and listing more than a page.
    probe.says("/delete?files,nothing", "done").await;
    probe.says("/delete?files,moved,then,nothing", "done").await;
    probe.says("/list?files", "").await;
    let mut names = Vec::new();
    for number in 0..30 {
        probe.says(&format!("/write?files,n{number:02},1,10"), "written").await;
        names.push(format!("n{number:02}"));
    }
    probe.says("/list?files", &names.join(",")).await;
    probe.says("/skip?files,12", "12 and 18, true").await;
    probe.says("/clear?files", "done").await;
    probe.says("/list?files", "").await;
    probe.says("/exists?files", "true").await;
    probe.says("/delete-container?other", "done").await;
    probe.says("/exists?other", "false").await;
    probe.fails("/list?other", "create it first").await;
    probe.says("/create?other", "other").await;
    probe.says("/list?other", "").await;
}

/// Eight writers and as many readers of one object: whoever reads finds an object that was written, all of it.
async fn nobody_reads_half_an_object(store: &str) {
    const LENGTH: usize = 1_200_000;
    let host = Host::start("probe-blobstore", store, &FLAGS);
    let mut probe = Probe::of(host.address).await;
    probe.says("/create?files", "files").await;
    probe.says(&format!("/write?files,hot,0,{LENGTH}"), "written").await;
    let address = host.address;
    let writing = Arc::new(AtomicUsize::new(8));
    let writers = (1..9).map(|seed| {
        let writing = Arc::clone(&writing);
        tokio::spawn(async move {
            let mut probe = Probe::of(address).await;
            // Small ones in between, which are kept in another way.
            for length in [LENGTH, 1_000, LENGTH, LENGTH, 1_000, LENGTH] {
                probe.says(&format!("/write?files,hot,{seed},{length}"), "written").await;
            }
            writing.fetch_sub(1, Ordering::Relaxed);
        })
    });
    let readers = (0..8).map(|_| {
        let writing = Arc::clone(&writing);
        tokio::spawn(async move {
            let mut probe = Probe::of(address).await;
            let mut is_last = false;
            while !is_last {
                is_last = writing.load(Ordering::Relaxed) == 0;
                let told = probe.0.get(&format!("/stream?files,hot,0,{LENGTH}")).await;
                let text = told.text();
                let is_whole =
                    text.starts_with("1200000 bytes of ") || text.starts_with("1000 bytes of ");
                assert!(told.status == 200 && is_whole, "{told:?}");
            }
        })
    });
    let tasks = writers.chain(readers).collect::<Vec<_>>();
    let all = async {
        for task in tasks {
            task.await.unwrap();
        }
    };
    timeout(Duration::from_secs(120), all).await.expect("writers and readers end");
}

/// A request that is sent again writes no other object, and leaves what others have written since.
async fn a_repeated_upload_is_applied_once(store: &str) {
    let host = Host::start("probe-blobstore", store, &FLAGS);
    let mut probe = Probe::of(host.address).await;
    probe.says("/create?files", "files").await;
    for (name, length) in [("small", 100), ("large", 1_200_000)] {
        let target = format!("/write?files,{name},1,{length}");
        let first = probe.0.post_with_key(&target, name).await;
        assert_eq!(first.text(), "written", "{first:?}");
        assert!(!first.headers.contains_key("idempotent-replayed"));
        probe.says(&format!("/write?files,{name},2,{length}"), "written").await;
        let again = probe.0.post_with_key(&target, name).await;
        assert_eq!(again.text(), "written", "{again:?}");
        assert_eq!(again.headers["idempotent-replayed"], "true");
        let end = length - 1;
        let told = format!("{length} bytes of 2");
        probe.says(&format!("/read?files,{name},0,{end}"), &told).await;
        // A delete and a write under one key are two requests.
        let deleted = probe.0.post_with_key(&format!("/delete?files,{name}"), name).await;
        assert_eq!(deleted.status, 422, "{deleted:?}");
    }
}

macro_rules! on_every_backend {
    ($($name:ident)*) => { $(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn on_memory() {
                super::$name("memory:").await;
            }

            #[tokio::test]
            async fn on_sqlite() {
                super::$name("sqlite:tally.db").await;
            }

            #[tokio::test]
            async fn on_redis() {
                let redis = Redis::start().unwrap();
                super::$name(&redis.url()).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                let postgres = Postgres::start(Durability::Unsynced).unwrap();
                super::$name(&postgres.url()).await;
            }
        }
    )* };
}

on_every_backend! { does_everything nobody_reads_half_an_object a_repeated_upload_is_applied_once }

/// Sixty-four clients that make the same container and write objects of their own.
#[tokio::test]
async fn clients_that_begin_together_all_succeed() {
    let host = Host::start("probe-blobstore", "sqlite:tally.db", &FLAGS);
    let address = host.address;
    let clients = (0..64).map(|number| {
        tokio::spawn(async move {
            let mut probe = Probe::of(address).await;
            probe.says("/create?files", "files").await;
            probe.says(&format!("/write?files,o{number:02},{number},70000"), "written").await;
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let mut probe = Probe::of(address).await;
    let names: Vec<_> = (0..64).map(|number| format!("o{number:02}")).collect();
    probe.says("/list?files", &names.join(",")).await;
    for number in 0..64 {
        let told = format!("70000 bytes of {number}");
        probe.says(&format!("/read?files,o{number:02},0,69999"), &told).await;
    }
}
