//! Operations on several keys.

use bytes::Bytes;
use tally_state::Rejection;

use crate::store::{Store, rejection};

fn names(count: usize) -> Vec<String> {
    (0..count).map(|key| format!("key {key}")).collect()
}

fn values(keys: &[String]) -> Vec<(String, Bytes)> {
    keys.iter().map(|key| (key.clone(), format!("value of {key}").into())).collect()
}

pub(crate) async fn values_come_in_the_order_asked_for(store: Store) {
    store.set("a", "bytes of a").await;
    store.set("b", "").await;
    store.increment("c", 3).await.unwrap();
    let keys = ["c", "missing", "a", "b", "a", "c", "missing", "a"].map(str::to_owned);
    let values = store.handle.get_many(&store.bucket, &keys).await.unwrap();
    let (a, b, c) = (Some("bytes of a".into()), Some("".into()), Some("3".into()));
    assert_eq!(values, [c.clone(), None, a.clone(), b, a.clone(), c, None, a]);
}

pub(crate) async fn all_are_set_and_the_last_of_equal_keys_stays(store: Store) {
    let keys = names(1_000);
    store.handle.set_many(&store.bucket, values(&keys)).await.unwrap();
    let read = store.handle.get_many(&store.bucket, &keys).await.unwrap();
    let expected: Vec<_> = values(&keys).into_iter().map(|(_, value)| Some(value)).collect();
    assert!(read == expected, "a thousand values came back otherwise");
    let twice = ["x", "1", "y", "2"].map(|value| ("twice".to_owned(), Bytes::from(value)));
    store.handle.set_many(&store.bucket, twice.to_vec()).await.unwrap();
    assert_eq!(store.increment("twice", 1).await, Ok(3));
}

pub(crate) async fn all_are_deleted_missing_or_not(store: Store) {
    let keys = names(100);
    store.handle.set_many(&store.bucket, values(&keys[..50])).await.unwrap();
    store.increment("kept", 1).await.unwrap();
    let mut deleted = keys.clone();
    deleted.extend_from_slice(&keys[..10]);
    store.handle.delete_many(&store.bucket, &deleted).await.unwrap();
    let read = store.handle.get_many(&store.bucket, &keys).await.unwrap();
    assert!(read.iter().all(Option::is_none));
    assert_eq!(store.number("kept").await, 1);
}

pub(crate) async fn no_keys_are_no_error(store: Store) {
    assert_eq!(store.handle.get_many(&store.bucket, &[]).await, Ok(Vec::new()));
    assert_eq!(store.handle.set_many(&store.bucket, Vec::new()).await, Ok(()));
    assert_eq!(store.handle.delete_many(&store.bucket, &[]).await, Ok(()));
}

pub(crate) async fn more_keys_than_the_limit_are_refused(store: Store) {
    let keys = names(1_001);
    let refused = Rejection::TooManyKeys { actual: 1_001, limit: 1_000 };
    let (handle, bucket) = (&store.handle, &store.bucket);
    store.set("key 0", "kept").await;
    assert_eq!(rejection(handle.get_many(bucket, &keys).await), refused);
    assert_eq!(rejection(handle.set_many(bucket, values(&keys)).await), refused);
    assert_eq!(rejection(handle.delete_many(bucket, &keys).await), refused);
    assert_eq!(handle.list(bucket, None).await.unwrap().keys, ["key 0"]);
    assert_eq!(store.get("key 0").await, Some("kept".into()));
}

pub(crate) async fn one_wrong_key_refuses_all(store: Store) {
    let keys = ["good", ""].map(str::to_owned);
    let (handle, bucket) = (&store.handle, &store.bucket);
    store.set("kept", "1").await;
    let refused = rejection(handle.set_many(bucket, values(&keys)).await);
    assert!(matches!(refused, Rejection::Key(_)), "{refused:?}");
    assert_eq!(store.get("good").await, None);
    let refused = rejection(handle.delete_many(bucket, &["kept", "a\0"].map(str::to_owned)).await);
    assert!(matches!(refused, Rejection::Key(_)), "{refused:?}");
    assert_eq!(store.get("kept").await, Some("1".into()));
}
