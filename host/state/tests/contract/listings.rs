//! Pages of keys, and buckets whose names look alike.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use tally_state::{Bucket, Rejection};

use crate::store::{Store, all, rejection};

/// All keys of a bucket, page by page.
async fn walk(store: &Store, bucket: &Bucket) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    let mut cursor = None;
    for _ in 0..10_000 {
        let page = store.handle.list(bucket, cursor.as_deref()).await.unwrap();
        for key in page.keys {
            // Redis alone may repeat a key.
            assert!(keys.insert(key.clone()) || store.is("redis"), "{key} was listed twice");
        }
        match page.cursor {
            None => return keys,
            some => cursor = some,
        }
    }
    panic!("the listing does not end");
}

async fn fill(store: &Store, bucket: &Bucket, keys: &[String]) {
    for keys in keys.chunks(1_000) {
        let values = keys.iter().map(|key| (key.clone(), Bytes::from("1"))).collect();
        store.handle.set_many(bucket, values).await.unwrap();
    }
}

pub(crate) async fn an_empty_bucket_has_one_empty_page(store: Store) {
    assert_eq!(walk(&store, &store.bucket).await, BTreeSet::new());
    store.set("key", "1").await;
    assert_eq!(walk(&store, &store.bucket).await.len(), 1);
    store.handle.delete(&store.bucket, "key").await.unwrap();
    assert_eq!(walk(&store, &store.bucket).await, BTreeSet::new());
}

pub(crate) async fn every_key_is_listed_and_none_of_its_neighbours(store: Store) {
    // Each name could be taken for another by a prefix, a separator, an escape, a pattern or case.
    let names = [
        "foo",
        "foobar",
        "foo:",
        "fo",
        "Foo",
        "a",
        "a:b",
        "a%3Ab",
        "a%3ab",
        "a%",
        "%",
        "%25",
        "st*r",
        "star",
        "st\\*r",
        "*",
        "?",
        "x",
        "[x]",
        "[^x]",
        "[a-z]",
        "b[",
        "b[]",
        "b]",
        "\\",
        "\\\\",
        "a_c",
        "abc",
        "a%c",
        "'",
        "\"",
        " ",
        "\u{e9}",
        "e\u{301}",
        "\u{1f980}",
        "\u{1f980}*",
        "\n",
    ];
    let mut own_keys = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let bucket = store.other(name);
        let keys = [format!("of {index}"), format!("b:{index}"), format!(":{index}*")];
        fill(&store, &bucket, &keys).await;
        own_keys.push((bucket, keys));
    }
    let large = store.other("foo");
    let keys: Vec<String> = (0..1_300).map(|key| format!("key \u{e9} {key}")).collect();
    fill(&store, &large, &keys).await;
    for (bucket, own) in own_keys {
        let mut expected: BTreeSet<String> = own.into_iter().collect();
        if bucket == large {
            expected.extend(keys.iter().cloned());
        }
        assert_eq!(walk(&store, &bucket).await, expected, "{:?}", bucket.as_str());
    }
}

pub(crate) async fn keys_that_stay_are_listed_while_others_come_and_go(store: Store) {
    let staying: Vec<String> = (0..1_200).map(|key| format!("{key} stays")).collect();
    fill(&store, &store.bucket, &staying).await;
    let stop = Arc::new(AtomicBool::new(false));
    let churn = {
        let (store, stop) = (store.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let passing: Vec<String> = (0..600).map(|key| format!("{key} passes")).collect();
            while !stop.load(Ordering::Relaxed) {
                fill(&store, &store.bucket, &passing).await;
                store.handle.delete_many(&store.bucket, &passing).await.unwrap();
            }
        })
    };
    for _ in 0..5 {
        let seen = walk(&store, &store.bucket).await;
        for key in &staying {
            assert!(seen.contains(key), "{key} was missed");
        }
    }
    stop.store(true, Ordering::Relaxed);
    all(vec![churn]).await;
    assert_eq!(walk(&store, &store.bucket).await, staying.into_iter().collect());
}

pub(crate) async fn buckets_and_keys_meet_nowhere(store: Store) {
    // Pairs whose bucket and key would be one text if they were only put together.
    let places = [
        ("a", "b:c"),
        ("a:b", "c"),
        ("a%3Ab", "c"),
        ("a%253Ab", "c"),
        ("a", "b%3Ac"),
        ("a:", "b:c"),
        ("a::b", "c"),
        ("a", ":b:c"),
        ("a ", "b:c"),
        ("A", "b:c"),
        ("a", "B:c"),
        ("ab", ":c"),
        ("\u{e9}", "x"),
        ("e\u{301}", "x"),
    ];
    for (count, (bucket, key)) in (1..).zip(places) {
        let bucket = store.other(bucket);
        assert_eq!(store.handle.increment(&bucket, key, count).await, Ok(count), "{key}");
    }
    for (count, (bucket, key)) in (1..).zip(places) {
        let bucket = store.other(bucket);
        let value = store.handle.get(&bucket, key).await.unwrap();
        assert_eq!(value, Some(count.to_string().into()));
    }
    let (bucket, key) = places[0];
    store.handle.delete(&store.other(bucket), key).await.unwrap();
    for (bucket, key) in &places[1..] {
        let bucket = store.other(bucket);
        assert!(store.handle.exists(&bucket, key).await.unwrap(), "{} {key}", bucket.as_str());
    }
}

pub(crate) async fn a_cursor_of_nobody_is_refused(store: Store) {
    store.set("key", "1").await;
    // No backend gives out a cursor with a NUL, as no key has one.
    let list = store.handle.list(&store.bucket, Some("a\0b")).await;
    assert_eq!(rejection(list), Rejection::Cursor);
    if store.is("redis") {
        for cursor in ["", "nonsense", "-1", "1.5", "18446744073709551616"] {
            let list = store.handle.list(&store.bucket, Some(cursor)).await;
            assert_eq!(rejection(list), Rejection::Cursor, "{cursor:?}");
        }
    }
}
