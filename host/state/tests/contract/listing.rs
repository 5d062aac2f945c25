//! Listing: every key of the bucket, and none of another.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use tally_state::{Bucket, Error, Handle, Rejection, Scope};

use crate::bench::{Bench, open};

/// Names that mean something to one store or another.
const ODD: [&str; 24] = [
    "a:b", ":", "::", "%", "%3A", "*", "?", "[a]", "[", "]", "\\", "\\*", "^", "-", "'", "\"", ";",
    " ", "\n", "_", "ключ", "🔑", "e\u{301}", "{tag}",
];

/// Walks all pages; gives the keys and how many pages there were.
async fn walk(handle: &Handle, bucket: &Bucket) -> (BTreeSet<String>, usize) {
    let mut keys = BTreeSet::new();
    let mut cursor: Option<String> = None;
    for pages in 1..=200 {
        let page = handle.list(bucket, "", cursor.as_deref()).await.unwrap();
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            return (keys, pages);
        }
    }
    panic!("no end after 200 pages");
}

async fn fill(handle: &Handle, bucket: &Bucket, keys: &BTreeSet<String>) {
    let values: Vec<_> = keys.iter().map(|key| (key.clone(), Bytes::from("v"))).collect();
    for part in values.chunks(500) {
        handle.set_many(bucket, part.to_vec()).await.unwrap();
    }
}

pub(crate) async fn every_key_is_listed_as_it_was_set(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let mut keys: BTreeSet<String> = (0..1_250).map(|number| format!("key-{number}")).collect();
    keys.extend(ODD.map(String::from));
    // Ends of the order: the least character and the greatest, and the longest key.
    keys.extend(["\u{1}".into(), "\u{10ffff}".into(), "k".repeat(1_000)]);
    fill(handle, bucket, &keys).await;
    // A counter is a key as well.
    handle.increment(bucket, "count", 1).await.unwrap();
    keys.insert("count".into());
    let (listed, pages) = walk(handle, bucket).await;
    assert_eq!(listed, keys);
    assert!(pages > 1, "more keys than one page holds");
    let gone: Vec<String> = keys.iter().step_by(2).cloned().collect();
    for part in gone.chunks(500) {
        handle.delete_many(bucket, part).await.unwrap();
    }
    let left: BTreeSet<String> = keys.into_iter().filter(|key| !gone.contains(key)).collect();
    assert_eq!(walk(handle, bucket).await.0, left);
}

pub(crate) async fn an_empty_bucket_lists_nothing(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    assert_eq!(walk(handle, bucket).await.0, BTreeSet::new());
    handle.set(bucket, "key", "v".into()).await.unwrap();
    handle.delete(bucket, "key").await.unwrap();
    assert_eq!(walk(handle, bucket).await.0, BTreeSet::new());
}

pub(crate) async fn no_bucket_lists_the_keys_of_another(bench: Bench) {
    let handle = &bench.handle;
    let names = [
        "foo",
        "foobar",
        "foo*",
        "foo?",
        "f*",
        "f[o]o",
        "f[a-z]o",
        "[^x]oo",
        "foo\\",
        "foo\\*",
        "foo%",
        "foo%3A",
        "foo:",
        "foo:bar",
        "fo_",
        "Foo",
        "foo ",
        "föö",
        "foo\u{10ffff}",
        "*",
    ];
    for name in names {
        let keys = [format!("of {name}"), "bar".into(), ":bar".into(), "%".into()];
        fill(handle, &bench.bucket(name), &BTreeSet::from(keys)).await;
    }
    for name in names {
        let (listed, _) = walk(handle, &bench.bucket(name)).await;
        let own = [format!("of {name}"), "bar".into(), ":bar".into(), "%".into()];
        assert_eq!(listed, BTreeSet::from(own), "{name:?}");
    }
    // Clearing one bucket leaves its siblings.
    let (listed, _) = walk(handle, &bench.bucket("foo")).await;
    let listed: Vec<String> = listed.into_iter().collect();
    handle.delete_many(&bench.bucket("foo"), &listed).await.unwrap();
    assert_eq!(walk(handle, &bench.bucket("foo")).await.0, BTreeSet::new());
    assert_eq!(walk(handle, &bench.bucket("foobar")).await.0.len(), 4);
}

pub(crate) async fn separators_in_names_do_not_let_buckets_meet(bench: Bench) {
    let handle = &bench.handle;
    let places = [
        ("a", "b:c"),
        ("a:b", "c"),
        ("a%3Ab", "c"),
        ("a%253Ab", "c"),
        ("a", "b%3Ac"),
        ("a/b", "c"),
        ("a\u{1}b", "c"),
        ("A:b", "c"),
    ];
    for (value, (bucket, key)) in (1_i64..).zip(places) {
        let bucket = bench.bucket(bucket);
        assert_eq!(handle.increment(&bucket, key, value).await, Ok(value), "{bucket:?} {key}");
    }
    for (value, (bucket, key)) in (1_i64..).zip(places) {
        let held = handle.get(&bench.bucket(bucket), key).await;
        assert_eq!(held, Ok(Some(value.to_string().into())), "{bucket:?} {key}");
    }
    handle.delete(&bench.bucket("a"), "b:c").await.unwrap();
    assert_eq!(handle.get(&bench.bucket("a:b"), "c").await, Ok(Some("2".into())));
}

pub(crate) async fn a_cursor_that_was_never_given_out_is_refused(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    handle.set(bucket, "key", "v".into()).await.unwrap();
    let refused = Err(Error::Rejected(Rejection::Cursor));
    // No backend's keys look like these.
    for cursor in [String::new(), "a\0b".into(), "c".repeat(1_001)] {
        assert_eq!(handle.list(bucket, "", Some(&cursor)).await, refused, "{cursor:?}");
    }
    if bench.backend() == "redis" {
        for cursor in ["key", "-1", "1.5", "18446744073709551616", "0 MATCH *"] {
            assert_eq!(handle.list(bucket, "", Some(cursor)).await, refused, "{cursor:?}");
        }
    }
}

pub(crate) async fn keys_that_stay_are_listed_while_others_come_and_go(bench: Bench) {
    let (handle, bucket) = (&bench.handle, &bench.bucket);
    let staying: BTreeSet<String> = (0..1_200).map(|key| format!("{key} stays")).collect();
    fill(handle, bucket, &staying).await;
    let walking = AtomicBool::new(true);
    let churn = async {
        let passing: BTreeSet<String> = (0..400).map(|key| format!("{key} passes")).collect();
        let gone: Vec<String> = passing.iter().cloned().collect();
        while walking.load(Ordering::Relaxed) {
            fill(handle, bucket, &passing).await;
            handle.delete_many(bucket, &gone).await.unwrap();
        }
    };
    let walks = async {
        for _ in 0..5 {
            let (seen, _) = walk(handle, bucket).await;
            let missed: Vec<&String> = staying.difference(&seen).collect();
            assert!(missed.is_empty(), "missed {missed:?}");
        }
        walking.store(false, Ordering::Relaxed);
    };
    tokio::join!(walks, churn);
    assert_eq!(walk(handle, bucket).await.0, staying);
}

/// Walks all pages of buckets; gives them and how many pages there were.
async fn walk_buckets(handle: &Handle) -> (BTreeSet<String>, usize) {
    let mut buckets = BTreeSet::new();
    let mut cursor: Option<String> = None;
    for pages in 1..=200 {
        let page = handle.buckets(cursor.as_deref()).await.unwrap();
        buckets.extend(page.buckets);
        cursor = page.cursor;
        if cursor.is_none() {
            return (buckets, pages);
        }
    }
    panic!("no end after 200 pages");
}

/// Of hundreds of names, those that differ.
#[track_caller]
fn assert_same(listed: &BTreeSet<String>, expected: &BTreeSet<String>) {
    let differ: Vec<&String> = listed.symmetric_difference(expected).collect();
    assert!(differ.is_empty(), "listed wrongly, or not: {differ:?}");
}

pub(crate) async fn buckets_are_listed_while_they_hold_keys(bench: Bench) {
    let url = bench.fresh().await;
    let state = open(&url).await;
    let handle = state.worker();
    assert_eq!(walk_buckets(&handle).await.0, BTreeSet::new(), "an empty store");

    let mut names: BTreeSet<String> = (0..450).map(|number| format!("many-{number}")).collect();
    names.extend(ODD.map(String::from));
    // Ends of the order, the longest name, one that is part of another, and nearly a reserved one.
    names.extend(["\u{1}", "\u{10ffff}", "many", "Many", "tally", "tally:x"].map(String::from));
    names.insert("b".repeat(255));
    for name in &names {
        handle.increment(&Bucket::new(name).unwrap(), "count", 1).await.unwrap();
    }
    // A large one is stepped over.
    let keys = (0..1_250).map(|number| format!("a:{number}")).collect();
    fill(&handle, &Bucket::new("many-0").unwrap(), &keys).await;
    // What is kept of requests is in no bucket of anybody's.
    let (bucket, scope) = (Bucket::new("many-1").unwrap(), Scope::new([7; 16], [0; 16]));
    handle.scoped(&scope).increment(&bucket, "count", 1).await.unwrap();
    handle.store_response(&bucket, &scope, "response".into()).await.unwrap();
    handle.set(&Bucket::new("tally.own").unwrap(), "key", "v".into()).await.unwrap();
    if bench.backend() == "redis" {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        // Of other programs: without a bucket, of another type, and nothing a guest could write.
        for (command, name) in [
            ("SET", "plain"),
            ("SET", ":key"),
            ("RPUSH", "list:key"),
            ("SET", "x%3ay:key"),
            ("SET", "z:"),
        ] {
            let () =
                redis::cmd(command).arg(name).arg("v").query_async(&mut connection).await.unwrap();
        }
    }
    let (listed, pages) = walk_buckets(&handle).await;
    assert_same(&listed, &names);
    assert!(pages > 1 || bench.backend() == "redis", "more buckets than one page holds");

    // A bucket lasts as long as its keys do.
    let (gone, passing) = (Bucket::new("many-3").unwrap(), Bucket::new("passing").unwrap());
    handle.delete(&gone, "count").await.unwrap();
    let moment = Some(Duration::from_millis(40));
    handle.set_for(&passing, "key", "v".into(), moment).await.unwrap();
    let expired = async {
        while handle.exists(&passing, "key").await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), expired).await.expect("its time ends");
    names.remove("many-3");
    assert_same(&walk_buckets(&handle).await.0, &names);
}

pub(crate) async fn a_cursor_of_buckets_that_was_never_given_out_is_refused(bench: Bench) {
    let refused = Err(Error::Rejected(Rejection::Cursor));
    for cursor in [String::new(), "a\0b".into(), "c".repeat(1_001)] {
        assert_eq!(bench.handle.buckets(Some(&cursor)).await, refused, "{cursor:?}");
    }
    if bench.backend() == "redis" {
        assert_eq!(bench.handle.buckets(Some("bucket")).await, refused);
    }
}
