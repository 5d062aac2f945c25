//! Several keys in one call.

use bytes::Bytes;
use tally_state::{Error, Rejection};

use crate::bench::Bench;

fn keys<const N: usize>(keys: [&str; N]) -> Vec<String> {
    keys.map(String::from).to_vec()
}

fn pairs<const N: usize>(pairs: [(&str, &'static str); N]) -> Vec<(String, Bytes)> {
    pairs.map(|(key, value)| (key.into(), value.into())).to_vec()
}

pub(crate) async fn values_come_in_the_order_asked_for(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    assert_eq!(handle.get_many(&bucket, &[], usize::MAX).await, Ok(Vec::new()));
    handle.set(&bucket, "b", "text".into()).await.unwrap();
    handle.set(&bucket, "a", "".into()).await.unwrap();
    handle.increment(&bucket, "c", 3).await.unwrap();
    let asked = keys(["c", "missing", "b", "a", "b", "missing", "c"]);
    let some = |text: &'static str| Some(Bytes::from(text));
    let expected = [some("3"), None, some("text"), some(""), some("text"), None, some("3")];
    assert_eq!(handle.get_many(&bucket, &asked, usize::MAX).await, Ok(expected.to_vec()));
}

pub(crate) async fn several_keys_are_set(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    handle.set_many(&bucket, Vec::new()).await.unwrap();
    handle.set_many(&bucket, pairs([("a", "1"), ("b", "text"), ("c", "")])).await.unwrap();
    handle.set_many(&bucket, pairs([("b", "2"), ("d", "new")])).await.unwrap();
    let held = handle.get_many(&bucket, &keys(["a", "b", "c", "d"]), usize::MAX).await.unwrap();
    assert_eq!(held, ["1", "2", "", "new"].map(|text| Some(Bytes::from(text))));
    assert_eq!(handle.increment(&bucket, "b", 1).await, Ok(3));
}

pub(crate) async fn a_key_set_twice_in_one_call_keeps_the_last_value(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    for _ in 0..10 {
        let values = pairs([("a", "1"), ("b", "x"), ("a", "text"), ("a", "3"), ("b", "y")]);
        handle.set_many(&bucket, values).await.unwrap();
        let held = handle.get_many(&bucket, &keys(["a", "b"]), usize::MAX).await.unwrap();
        assert_eq!(held, ["3", "y"].map(|text| Some(Bytes::from(text))));
        handle.delete_many(&bucket, &keys(["a", "b"])).await.unwrap();
    }
}

pub(crate) async fn several_keys_are_deleted(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    handle.set_many(&bucket, pairs([("a", "1"), ("b", "text"), ("c", "3")])).await.unwrap();
    handle.delete_many(&bucket, &[]).await.unwrap();
    handle.delete_many(&bucket, &keys(["c", "missing", "a", "a"])).await.unwrap();
    let held = handle.get_many(&bucket, &keys(["a", "b", "c"]), usize::MAX).await.unwrap();
    assert_eq!(held, [None, Some(Bytes::from("text")), None]);
}

pub(crate) async fn one_key_out_of_bounds_leaves_all_unchanged(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    handle.set(&bucket, "a", "old".into()).await.unwrap();
    let refused =
        |error: Error| assert!(matches!(error, Error::Rejected(Rejection::Key(_))), "{error}");
    refused(handle.set_many(&bucket, pairs([("a", "new"), ("", "x")])).await.unwrap_err());
    refused(handle.delete_many(&bucket, &keys(["a", "b\0"])).await.unwrap_err());
    refused(handle.get_many(&bucket, &keys(["a", ""]), usize::MAX).await.unwrap_err());
    let large = vec![("a".into(), "new".into()), ("b".into(), vec![0; (1 << 20) + 1].into())];
    let error = handle.set_many(&bucket, large).await.unwrap_err();
    assert!(matches!(error, Error::Rejected(Rejection::ValueTooLarge { .. })), "{error}");
    assert_eq!(handle.get(&bucket, "a").await, Ok(Some("old".into())));
}
