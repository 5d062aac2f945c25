//! Writes with a token happen once, whoever sends them, and however often.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tally_state::{
    Bounded, Digest, Error, Handle, Metrics, Once, Options, Rejection, State, Swapped,
};

use crate::bench::{Bench, options};

/// A request that no other case makes.
fn request(bench: &Bench, number: u64) -> Once {
    Once::new(digest(bench, number), [1; 16])
}

fn digest(bench: &Bench, request: u64) -> Digest {
    let case = bench
        .bucket
        .as_str()
        .bytes()
        .fold(7_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    (u128::from(case) << 64 | u128::from(request)).to_be_bytes()
}

async fn value(bench: &Bench, key: &str) -> Option<Bytes> {
    bench.handle.get(&bench.bucket, key).await.unwrap()
}

pub(crate) async fn every_write_happens_once(bench: Bench) {
    let bucket = &bench.bucket;
    let other = bench.open().await.worker();
    // Each is sent again, by another host; in between, the key goes on.
    for handle in [&bench.handle, &other] {
        let once = handle.once(&request(&bench, 1));
        assert_eq!(once.increment(bucket, "count", 5).await, Ok(5));
        assert_eq!(once.set(bucket, "set", "first".into()).await, Ok(()));
        assert_eq!(once.delete(bucket, "set").await, Ok(()));
        assert_eq!(once.set_if_absent(bucket, "absent", "a".into(), None).await, Ok(true));
        assert_eq!(
            once.get_and_set(bucket, "absent", "b".into(), None).await,
            Ok(Some("a".into()))
        );
        assert_eq!(
            once.swap(bucket, "absent", Some("b".into()), "c".into()).await,
            Ok(Swapped::Yes)
        );
        let refused = once.swap(bucket, "absent", Some("b".into()), "d".into()).await;
        assert_eq!(refused, Ok(Swapped::No(Some("c".into()))));
        assert_eq!(once.expire(bucket, "absent", None).await, Ok(true));
        let within = once.increment_within(bucket, "count", 1, 0..=6).await;
        assert_eq!(within, Ok(Bounded::Applied(6)));
        let within = once.increment_within(bucket, "count", 1, 0..=6).await;
        assert_eq!(within, Ok(Bounded::Refused(6)));
        let not_a_number = once.increment(bucket, "absent", 1).await;
        assert_eq!(not_a_number, Err(Error::Rejected(Rejection::NotANumber)));
        handle.set(bucket, "count", "100".into()).await.unwrap();
        handle.set(bucket, "set", "later".into()).await.unwrap();
        handle.set(bucket, "absent", "1".into()).await.unwrap();
    }
    assert_eq!(value(&bench, "count").await, Some("100".into()));
    assert_eq!(value(&bench, "set").await, Some("later".into()));
    assert_eq!(value(&bench, "absent").await, Some("1".into()));
}

pub(crate) async fn a_call_on_several_keys_happens_once(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let once = handle.once(&request(&bench, 1));
    let values = |value: &'static str| vec![("a".into(), value.into()), ("b".into(), value.into())];
    once.set_many(bucket, values("first")).await.unwrap();
    handle.set_many(bucket, values("later")).await.unwrap();
    let once = handle.once(&request(&bench, 1));
    once.set_many(bucket, values("first")).await.unwrap();
    assert_eq!(value(&bench, "a").await, Some("later".into()));
    assert_eq!(value(&bench, "b").await, Some("later".into()));
}

pub(crate) async fn another_request_under_the_same_token_changes_nothing(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let first = handle.once(&request(&bench, 1));
    let other = handle.once(&Once::new(digest(&bench, 1), [2; 16]));
    assert_eq!(first.increment(bucket, "count", 1).await, Ok(1));
    let reused = other.increment(bucket, "count", 1).await;
    assert_eq!(reused, Err(Error::Rejected(Rejection::Reused)));
    assert_eq!(value(&bench, "count").await, Some("1".into()));
}

pub(crate) async fn a_write_that_is_left_out_does_not_answer_for_another(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let first = handle.once(&request(&bench, 1));
    assert_eq!(first.increment(bucket, "charged", 1).await, Ok(1));
    // It ends here, and begins again; it sees that the first is done.
    let again = handle.once(&request(&bench, 1));
    assert_eq!(again.increment(bucket, "shipped", 1).await, Ok(1));
    assert_eq!(again.increment(bucket, "charged", 1).await, Ok(1), "the first, once more");
    assert_eq!(again.increment(bucket, "charged", 1).await, Ok(2), "another one");
    assert_eq!(value(&bench, "shipped").await, Some("1".into()));
    // Another request under the name is noticed, whatever key it writes.
    let other = handle.once(&Once::new(digest(&bench, 1), [2; 16]));
    let reused = Err(Error::Rejected(Rejection::Reused));
    assert_eq!(other.increment(bucket, "another", 1).await, reused);
    assert_eq!(value(&bench, "another").await, None);
}

pub(crate) async fn one_token_sent_by_many_at_once_counts_once(bench: Bench) {
    let other = bench.open().await;
    let bucket = &bench.bucket;
    for round in 0..20 {
        let handles: Vec<Handle> = (0..12)
            .map(|n| if n % 2 == 0 { bench.state.worker() } else { other.worker() })
            .map(|handle| handle.once(&request(&bench, round)))
            .collect();
        let sent = handles.iter().map(|handle| handle.increment(bucket, "key", 1));
        let counts: Vec<_> = join_all(sent).await;
        let count = i64::try_from(round).unwrap() + 1;
        assert!(counts.iter().all(|one| *one == Ok(count)), "{counts:?}");
    }
}

pub(crate) async fn tokens_and_plain_increments_count_exactly_together(bench: Bench) {
    let other = bench.open().await;
    let bucket = &bench.bucket;
    const REQUESTS: u64 = 60;
    let handles: Vec<Handle> =
        (0..6).map(|n| if n % 2 == 0 { bench.state.worker() } else { other.worker() }).collect();
    // Every host sends every request, and each adds some of its own.
    let all = handles.iter().enumerate().flat_map(|(host, handle)| {
        let bench = &bench;
        (0..REQUESTS).map(move |number| async move {
            let number = (number + host as u64 * 10) % REQUESTS;
            let key = if number.is_multiple_of(3) { "hot" } else { "warm" };
            let once = handle.once(&request(bench, number));
            handle.increment(bucket, key, 1).await.unwrap();
            (number, once.increment(bucket, key, 1).await.unwrap())
        })
    });
    let mut counts = std::collections::HashMap::new();
    for (request, count) in join_all(all).await {
        assert_eq!(*counts.entry(request).or_insert(count), count, "request {request}");
    }
    let total: i64 = join_all(["hot", "warm"].map(|key| bench.handle.increment(bucket, key, 0)))
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    assert_eq!(total, i64::try_from(REQUESTS * 7).unwrap());
}

pub(crate) async fn an_answer_is_remembered_once(bench: Bench) {
    let handle = &bench.handle;
    let request = request(&bench, 1);
    assert_eq!(handle.recall(&request).await, Ok(None));
    handle.remember(&request, Bytes::from_static(b"\0first")).await.unwrap();
    handle.remember(&request, Bytes::from_static(b"second")).await.unwrap();
    let other = bench.open().await.worker();
    let recalled = other.recall(&request).await.unwrap().unwrap();
    assert_eq!(recalled.answer, b"\0first"[..]);
    assert_eq!(recalled.fingerprint, request.fingerprint());
}

pub(crate) async fn records_are_forgotten_after_their_time(bench: Bench) {
    let options = Options { remember: Duration::from_millis(60), ..options() };
    let state = State::open(&bench.url(), options, Metrics::default()).await.unwrap();
    let (handle, bucket) = (state.worker(), &bench.bucket);
    let request = request(&bench, 1);
    let once = handle.once(&request);
    assert_eq!(once.increment(bucket, "key", 1).await, Ok(1));
    handle.remember(&request, Bytes::from_static(b"answer")).await.unwrap();
    while handle.recall(&request).await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(80)).await;
    // Whether it has been removed by now or not, it is no more.
    let again = handle.once(&Once::new(request.name(), request.fingerprint()));
    assert_eq!(again.increment(bucket, "key", 1).await, Ok(2));
}
