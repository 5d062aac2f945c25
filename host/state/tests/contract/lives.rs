//! Times to live, and the operations that come with them.

use std::{future::Future, time::Duration};

use futures_util::future::join_all;
use tally_state::{Bounded, Error, Handle, Rejection, Swapped, TimeToLive};

use crate::bench::{Bench, at_once};

const HOUR: Option<Duration> = Some(Duration::from_secs(3_600));
const MOMENT: Option<Duration> = Some(Duration::from_millis(40));

/// Waits until something holds.
async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_about_an_hour(left: TimeToLive) -> bool {
    matches!(left, TimeToLive::Left(left) if left > Duration::from_secs(3_000) && left <= HOUR.unwrap())
}

async fn is_missing(handle: &Handle, bucket: &tally_state::Bucket, key: &str) -> bool {
    handle.get(bucket, key).await.unwrap().is_none()
}

pub(crate) async fn a_key_is_missing_once_its_time_is_over(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    for key in ["value", "count", "swapped", "replaced", "absent", "extended"] {
        handle.set_for(bucket, key, "7".into(), MOMENT).await.unwrap();
    }
    for key in ["value", "count", "swapped", "replaced", "absent", "extended"] {
        until(|| is_missing(handle, bucket, key)).await;
    }
    assert_eq!(handle.exists(bucket, "value").await, Ok(false));
    assert_eq!(handle.time_to_live(bucket, "value").await, Ok(TimeToLive::Missing));
    assert_eq!(handle.list(bucket, "", None).await.unwrap().keys, Vec::<String>::new());
    assert_eq!(handle.get_many(bucket, &["value".into()], 100).await, Ok(vec![None]));
    assert_eq!(handle.increment(bucket, "count", 1).await, Ok(1), "from nothing");
    assert_eq!(handle.time_to_live(bucket, "count").await, Ok(TimeToLive::Unlimited));
    assert_eq!(handle.swap(bucket, "swapped", None, "8".into()).await, Ok(Swapped::Yes));
    assert_eq!(handle.get_and_set(bucket, "replaced", "8".into(), None).await, Ok(None));
    assert_eq!(handle.set_if_absent(bucket, "absent", "8".into(), None).await, Ok(true));
    assert_eq!(handle.expire(bucket, "extended", HOUR).await, Ok(false), "it is too late");
}

pub(crate) async fn what_is_changed_in_place_keeps_its_time(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    handle.set_for(bucket, "key", "1".into(), HOUR).await.unwrap();
    assert_eq!(handle.increment(bucket, "key", 1).await, Ok(2));
    assert_eq!(handle.increment_within(bucket, "key", 1, 0..=3).await, Ok(Bounded::Applied(3)));
    assert_eq!(handle.increment_within(bucket, "key", 1, 0..=3).await, Ok(Bounded::Refused(3)));
    let swapped = handle.swap(bucket, "key", Some("3".into()), "4".into()).await;
    assert_eq!(swapped, Ok(Swapped::Yes));
    assert!(is_about_an_hour(handle.time_to_live(bucket, "key").await.unwrap()));
    handle.set(bucket, "key", "5".into()).await.unwrap();
    assert_eq!(handle.time_to_live(bucket, "key").await, Ok(TimeToLive::Unlimited));
}

pub(crate) async fn a_time_to_live_is_given_and_taken(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    assert_eq!(handle.expire(bucket, "key", HOUR).await, Ok(false));
    assert_eq!(handle.expire(bucket, "key", None).await, Ok(false));
    handle.set(bucket, "key", "v".into()).await.unwrap();
    assert_eq!(handle.expire(bucket, "key", None).await, Ok(true), "it has none");
    assert_eq!(handle.expire(bucket, "key", HOUR).await, Ok(true));
    assert!(is_about_an_hour(handle.time_to_live(bucket, "key").await.unwrap()));
    assert_eq!(handle.expire(bucket, "key", None).await, Ok(true));
    assert_eq!(handle.time_to_live(bucket, "key").await, Ok(TimeToLive::Unlimited));
    assert_eq!(handle.get(bucket, "key").await, Ok(Some("v".into())));
    assert_eq!(handle.set_if_absent(bucket, "key", "w".into(), HOUR).await, Ok(false));
    assert_eq!(handle.time_to_live(bucket, "key").await, Ok(TimeToLive::Unlimited));
    assert_eq!(handle.set_if_absent(bucket, "new", "w".into(), HOUR).await, Ok(true));
    assert!(is_about_an_hour(handle.time_to_live(bucket, "new").await.unwrap()));
    let before = handle.get_and_set(bucket, "key", "x".into(), HOUR).await;
    assert_eq!(before, Ok(Some("v".into())));
    assert!(is_about_an_hour(handle.time_to_live(bucket, "key").await.unwrap()));
    assert_eq!(handle.expire(bucket, "key", MOMENT).await, Ok(true));
    until(|| is_missing(handle, bucket, "key")).await;
}

pub(crate) async fn a_time_out_of_bounds_is_refused(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let refused = Err(Error::Rejected(Rejection::TimeToLive));
    for ttl in [Duration::ZERO, Duration::from_micros(999), Duration::MAX] {
        assert_eq!(handle.set_for(bucket, "key", "v".into(), Some(ttl)).await, refused);
    }
    assert_eq!(handle.exists(bucket, "key").await, Ok(false));
}

pub(crate) async fn what_a_reset_replaces_and_what_is_left_add_up(bench: Bench) {
    let bucket = bench.bucket.clone();
    let results = at_once(&bench.state, 8, |worker, handle| {
        let bucket = bucket.clone();
        async move {
            let mut replaced = 0;
            for round in 0..60 {
                if worker == 0 || round % 20 == 19 {
                    let before =
                        handle.get_and_set(&bucket, "key", "0".into(), None).await.unwrap();
                    let text = before
                        .map_or("0".into(), |value| String::from_utf8(value.to_vec()).unwrap());
                    replaced += text.parse::<i64>().unwrap();
                } else {
                    handle.increment(&bucket, "key", 1).await.unwrap();
                }
            }
            replaced
        }
    })
    .await;
    let left = bench.handle.increment(&bucket, "key", 0).await.unwrap();
    assert_eq!(results.iter().sum::<i64>() + left, 7 * 57);
}

pub(crate) async fn bounds_hold_whatever_comes_at_once(bench: Bench) {
    let bucket = bench.bucket.clone();
    let results = at_once(&bench.state, 16, |worker, handle| {
        let bucket = bucket.clone();
        async move {
            let mut applied = 0;
            for _ in 0..20 {
                let delta = if worker % 4 == 0 { -1 } else { 1 };
                match handle.increment_within(&bucket, "key", delta, 0..=10).await.unwrap() {
                    Bounded::Applied(count) => {
                        assert!((0..=10).contains(&count), "{count}");
                        applied += delta;
                    }
                    Bounded::Refused(count) => assert!(count == 0 || count == 10, "{count}"),
                }
            }
            applied
        }
    })
    .await;
    let left = bench.handle.increment(&bucket, "key", 0).await.unwrap();
    assert_eq!(results.iter().sum::<i64>(), left);
}

pub(crate) async fn extreme_bounds_are_exact(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let most = i64::MAX;
    handle.set(bucket, "key", (most - 2).to_string().into()).await.unwrap();
    let within = |delta, bounds| handle.increment_within(bucket, "key", delta, bounds);
    assert_eq!(within(2, 0..=most - 1).await, Ok(Bounded::Refused(most - 2)));
    assert_eq!(within(1, 0..=most - 1).await, Ok(Bounded::Applied(most - 1)));
    assert_eq!(within(2, 0..=most).await, Ok(Bounded::Refused(most - 1)), "beyond 64 bits");
    assert_eq!(within(i64::MIN, -1..=0).await, Ok(Bounded::Refused(most - 1)));
    assert_eq!(within(i64::MIN, -2..=0).await, Ok(Bounded::Applied(-2)));
    assert_eq!(within(-1, i64::MIN..=-3).await, Ok(Bounded::Applied(-3)));
    handle.set(bucket, "key", "x".into()).await.unwrap();
    assert_eq!(within(1, 0..=1).await, Err(Error::Rejected(Rejection::NotANumber)));
}

pub(crate) async fn a_prefix_lists_what_begins_with_it(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    for key in ["a", "ab", "ab*", "ab:c", "abé", "ac", "b", "\u{10ffff}x"] {
        handle.set(bucket, key, "v".into()).await.unwrap();
    }
    for (prefix, expected) in [
        ("ab", vec!["ab", "ab*", "ab:c", "abé"]),
        ("ab*", vec!["ab*"]),
        ("\u{10ffff}", vec!["\u{10ffff}x"]),
        ("?", vec![]),
        ("abé", vec!["abé"]),
    ] {
        let mut keys = handle.list(bucket, prefix, None).await.unwrap().keys;
        keys.sort_unstable();
        assert_eq!(keys, expected, "{prefix}");
    }
}

pub(crate) async fn an_increment_gives_what_it_creates_its_time(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let long = Some(Duration::from_secs(1_000));
    // One by one, and several in one batch, some of them to be applied once.
    assert_eq!(handle.increment_for(bucket, "window", 1, long).await, Ok(1));
    let scopes = [1, 2].map(|n| tally_state::Scope::new([n; 16], [0; 16]));
    let scoped = scopes.each_ref().map(|scope| handle.scoped(scope));
    let handles = [&scoped[0], handle, &scoped[1], handle, handle];
    let asked = handles.map(|handle| handle.increment_for(bucket, "window", 1, long));
    let mut counts = join_all(asked).await.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    counts.sort_unstable();
    assert_eq!(counts, [2, 3, 4, 5, 6]);
    let TimeToLive::Left(left) = handle.time_to_live(bucket, "window").await.unwrap() else {
        panic!("it has no end");
    };
    assert!(left > Duration::from_secs(500) && left <= Duration::from_secs(1_000), "{left:?}");
    // One that exists keeps its own, be it none.
    handle.set(bucket, "stays", "5".into()).await.unwrap();
    assert_eq!(handle.increment_for(bucket, "stays", 1, long).await, Ok(6));
    assert_eq!(handle.time_to_live(bucket, "stays").await, Ok(TimeToLive::Unlimited));
    // What has expired begins anew, with a new time.
    let short = Some(Duration::from_millis(30));
    for round in 0..5 {
        assert_eq!(handle.increment_for(bucket, "short", 1, short).await, Ok(1), "{round}");
        let gone = async {
            while handle.exists(bucket, "short").await.unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), gone).await.expect("its time ends");
    }
    let wrong = handle.increment_for(bucket, "window", 1, Some(Duration::ZERO)).await;
    assert_eq!(wrong, Err(Error::Rejected(Rejection::TimeToLive)));
}

pub(crate) async fn an_increment_within_bounds_gives_what_it_creates_its_time(bench: Bench) {
    let Bench { handle, bucket, .. } = &bench;
    let scoped = handle.scoped(&tally_state::Scope::new([3; 16], [0; 16]));
    for (key, handle) in [("plain", handle), ("once", &scoped)] {
        let add = |delta, ttl| handle.increment_within_for(bucket, key, delta, 0..=3, ttl);
        // What is refused creates nothing.
        assert_eq!(add(4, HOUR).await, Ok(Bounded::Refused(0)));
        assert_eq!(handle.exists(bucket, key).await, Ok(false));
        assert_eq!(add(2, HOUR).await, Ok(Bounded::Applied(2)));
        assert!(is_about_an_hour(handle.time_to_live(bucket, key).await.unwrap()), "{key}");
        // One that exists keeps its own, whether it is added to or not.
        let longer = Some(Duration::from_secs(100_000));
        assert_eq!(add(1, longer).await, Ok(Bounded::Applied(3)));
        assert_eq!(add(1, longer).await, Ok(Bounded::Refused(3)));
        assert!(is_about_an_hour(handle.time_to_live(bucket, key).await.unwrap()), "{key}");
        handle.expire(bucket, key, None).await.unwrap();
        assert_eq!(add(-1, HOUR).await, Ok(Bounded::Applied(2)));
        assert_eq!(handle.time_to_live(bucket, key).await, Ok(TimeToLive::Unlimited));
    }
    // A window of which the time is over begins anew.
    for round in 0..3 {
        let add = || handle.increment_within_for(bucket, "window", 1, 0..=1, MOMENT);
        assert_eq!(add().await, Ok(Bounded::Applied(1)), "{round}");
        let gone = until(|| is_missing(handle, bucket, "window"));
        tokio::time::timeout(Duration::from_secs(30), gone).await.expect("its time ends");
    }
    let never = handle.increment_within_for(bucket, "new", 1, 0..=1, Some(Duration::ZERO)).await;
    assert_eq!(never, Err(Error::Rejected(Rejection::TimeToLive)));
}
