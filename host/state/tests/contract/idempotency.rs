//! Writes of a scope are applied once, whoever sends them, and however often.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tally_state::{
    Bounded, Bucket, Digest, Error, Handle, Metrics, Options, Rejection, Scope, State, Swapped,
};

use crate::bench::{Bench, options};

/// A request that no other case makes.
fn request(bench: &Bench, number: u64) -> Scope {
    Scope::new(digest(bench, number), [1; 16])
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
        let once = handle.scoped(&request(&bench, 1));
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
    let once = handle.scoped(&request(&bench, 1));
    let values = |value: &'static str| vec![("a".into(), value.into()), ("b".into(), value.into())];
    once.set_many(bucket, values("first")).await.unwrap();
    handle.set_many(bucket, values("later")).await.unwrap();
    let once = handle.scoped(&request(&bench, 1));
    once.set_many(bucket, values("first")).await.unwrap();
    assert_eq!(value(&bench, "a").await, Some("later".into()));
    assert_eq!(value(&bench, "b").await, Some("later".into()));
}

pub(crate) async fn another_request_under_the_same_token_changes_nothing(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let first = handle.scoped(&request(&bench, 1));
    let other = handle.scoped(&Scope::new(digest(&bench, 1), [2; 16]));
    assert_eq!(first.increment(bucket, "count", 1).await, Ok(1));
    let reused = other.increment(bucket, "count", 1).await;
    assert_eq!(reused, Err(Error::Rejected(Rejection::Reused)));
    assert_eq!(value(&bench, "count").await, Some("1".into()));
}

pub(crate) async fn a_write_that_is_left_out_does_not_answer_for_another(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let first = handle.scoped(&request(&bench, 1));
    assert_eq!(first.increment(bucket, "charged", 1).await, Ok(1));
    // It ends here, and begins again; it sees that the first is done.
    let again = handle.scoped(&request(&bench, 1));
    assert_eq!(again.increment(bucket, "shipped", 1).await, Ok(1));
    assert_eq!(again.increment(bucket, "charged", 1).await, Ok(1), "the first, once more");
    assert_eq!(again.increment(bucket, "charged", 1).await, Ok(2), "another one");
    assert_eq!(value(&bench, "shipped").await, Some("1".into()));
    // Another request under the name is noticed, whatever key it writes.
    let other = handle.scoped(&Scope::new(digest(&bench, 1), [2; 16]));
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
            .map(|handle| handle.scoped(&request(&bench, round)))
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
            let once = handle.scoped(&request(bench, number));
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

pub(crate) async fn a_response_is_stored_once(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let request = request(&bench, 1);
    assert_eq!(handle.load_response(bucket, &request).await, Ok(None));
    handle.store_response(bucket, &request, Bytes::from_static(b"\0first")).await.unwrap();
    handle.store_response(bucket, &request, Bytes::from_static(b"second")).await.unwrap();
    let other = bench.open().await.worker();
    let stored = Some(Bytes::from_static(b"\0first"));
    assert_eq!(other.load_response(bucket, &request).await, Ok(stored));
    let reused = Scope::new(digest(&bench, 1), [2; 16]);
    let reused = other.load_response(bucket, &reused).await;
    assert_eq!(reused, Err(Error::Rejected(Rejection::Reused)));
}

pub(crate) async fn a_repeat_is_told_of_its_response(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let first = request(&bench, 1);
    assert_eq!(handle.scoped(&first).increment(bucket, "key", 1).await, Ok(1));
    assert_eq!(first.recorded().bucket.as_ref(), Some(bucket));
    assert_eq!((first.recorded().new, first.recorded().replayed), (1, 0));
    assert_eq!(first.response(), None);
    handle.store_response(bucket, &first, Bytes::from_static(b"response")).await.unwrap();
    let again = request(&bench, 1);
    assert_eq!(handle.scoped(&again).increment(bucket, "key", 1).await, Ok(1));
    assert_eq!((again.recorded().new, again.recorded().replayed), (0, 1));
    assert_eq!(again.response(), Some(Bytes::from_static(b"response")));
}

pub(crate) async fn a_write_that_was_gone_without_stays_undone(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let add = |scope: &Scope, delta| {
        let handle = handle.scoped(scope);
        async move { handle.increment(bucket, "key", delta).await }
    };
    // Asked, and given up before it could be answered: its outcome is open.
    let first = request(&bench, 1);
    drop(futures_util::FutureExt::now_or_never(add(&first, 1)));
    // Another one closes it, in whichever way, and both are settled for whoever runs again.
    let second = add(&first, 5).await.unwrap();
    let count = value(&bench, "key").await;
    let again = request(&bench, 1);
    match add(&again, 1).await {
        Ok(one) => assert_eq!((one, second), (1, 6), "it was applied before it was given up"),
        Err(error) => assert!(matches!(error, Error::NotApplied(_)) && second == 5, "{error}"),
    }
    assert_eq!(add(&again, 5).await, Ok(second));
    assert_eq!(value(&bench, "key").await, count);
}

pub(crate) async fn buckets_do_not_share_records(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let other = Bucket::new(&format!("{} too", bucket.as_str())).unwrap();
    let scope = request(&bench, 1);
    assert_eq!(handle.scoped(&scope).increment(bucket, "key", 1).await, Ok(1));
    let elsewhere = Scope::new(scope.name(), [9; 16]);
    assert_eq!(handle.scoped(&elsewhere).increment(&other, "key", 2).await, Ok(2));
}

pub(crate) async fn increments_of_all_sorts_share_a_batch(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    handle.set(bucket, "text", "x".into()).await.unwrap();
    handle.set(bucket, "full", i64::MAX.to_string().into()).await.unwrap();
    handle.set_for(bucket, "short", "70".into(), Some(Duration::from_millis(1))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let scopes: Vec<Scope> = (0..40).map(|number| request(&bench, number)).collect();
    for run in 0..2 {
        let asked = scopes.iter().enumerate().map(|(number, scope)| {
            let handle = handle.scoped(&Scope::new(scope.name(), [1; 16]));
            let (key, delta) = match number % 8 {
                0 => ("text", 1),
                1 => ("full", 1),
                2 => ("full", -1),
                3 => ("short", 1),
                4 => ("mixed", -3),
                5 => ("mixed", 5),
                _ => ("hot", 1),
            };
            async move { (key, delta, handle.increment(bucket, key, delta).await) }
        });
        let answers = join_all(asked).await;
        let counts = |key: &str| {
            let of_key = answers.iter().filter(|(other, ..)| *other == key);
            let mut counts: Vec<i64> = of_key.filter_map(|(.., one)| one.clone().ok()).collect();
            counts.sort_unstable();
            counts
        };
        let refused = |key: &str, delta| {
            let of_key = answers.iter().filter(|(other, by, _)| *other == key && *by == delta);
            of_key.filter_map(|(.., one)| one.clone().err()).collect::<Vec<_>>()
        };
        assert_eq!(refused("text", 1), vec![Error::Rejected(Rejection::NotANumber); 5], "{run}");
        let overflow = Error::Rejected(Rejection::Overflow);
        assert!(refused("full", 1).iter().all(|error| *error == overflow), "{run}");
        assert_eq!(refused("full", -1), []);
        assert_eq!(counts("short"), [1, 2, 3, 4, 5], "{run}: what had expired counts from 0");
        assert_eq!(counts("hot"), (1..=10).collect::<Vec<_>>(), "{run}");
        assert_eq!(counts("mixed").len(), 10, "{run}");
    }
    assert_eq!(value(&bench, "hot").await, Some("10".into()), "each of them once");
    assert_eq!(value(&bench, "mixed").await, Some("10".into()));
    assert_eq!(value(&bench, "short").await, Some("5".into()));
}

pub(crate) async fn records_are_forgotten_after_their_time(bench: Bench) {
    let moment = Duration::from_millis(60);
    let options =
        Options { idempotency_window: moment, sweep_every: Duration::from_millis(10), ..options() };
    let state = State::open(&bench.url(), options, Metrics::default()).await.unwrap();
    let (handle, bucket) = (state.worker(), &bench.bucket);
    let request = request(&bench, 1);
    let once = handle.scoped(&request);
    assert_eq!(once.increment(bucket, "key", 1).await, Ok(1));
    handle.store_response(bucket, &request, Bytes::from_static(b"response")).await.unwrap();
    let forgotten = async {
        loop {
            // Others go on: some stores forget only when they have something new to record.
            let other = Scope::new(fastrand::u128(..).to_be_bytes(), [1; 16]);
            handle.scoped(&other).increment(bucket, "other", 1).await.unwrap();
            let again = handle.scoped(&Scope::new(request.name(), [1; 16]));
            if again.increment(bucket, "key", 1).await == Ok(2) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), forgotten).await.expect("it is forgotten");
    // The answer was recorded later, and is forgotten later.
    let forgotten = async {
        while handle.load_response(bucket, &request).await != Ok(None) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), forgotten).await.expect("the answer is as well");
}
