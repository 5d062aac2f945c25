//! Several hosts on one store: each opens it for itself.

use std::sync::{Arc, Barrier};

use bytes::Bytes;
use futures_util::future::join_all;
use tally_state::{Metrics, State, Swapped};
use tokio::runtime::Handle as Runtime;

use crate::bench::{self, Bench, options};

pub(crate) async fn many_may_open_a_new_store_at_once(bench: Bench) {
    for _ in 0..6 {
        let url = bench.fresh().await;
        let start = Arc::new(Barrier::new(8));
        let opening = (0..8).map(|_| {
            let (url, start, runtime) = (url.clone(), Arc::clone(&start), Runtime::current());
            // On threads of their own, as opening a file blocks.
            tokio::task::spawn_blocking(move || {
                start.wait();
                runtime.block_on(State::open(&url, options(), Metrics::default()))
            })
        });
        let mut handles = Vec::new();
        for opened in join_all(opening).await {
            let state = opened.unwrap().unwrap_or_else(|error| panic!("{error}"));
            handles.push(state.worker());
        }
        let first = handles.iter().map(|handle| handle.increment(&bench.bucket, "first", 1));
        let mut counts: Vec<i64> = join_all(first).await.into_iter().map(Result::unwrap).collect();
        counts.sort_unstable();
        assert_eq!(counts, (1..=8).collect::<Vec<_>>(), "the first increments of a new store");
    }
}

pub(crate) async fn two_count_exactly(bench: Bench) {
    let (other, bucket) = (bench.open().await, &bench.bucket);
    let counting = [bench.state.clone(), other].map(|state| {
        let bucket = bucket.clone();
        tokio::spawn(async move {
            let handle = state.worker();
            let mut counts = Vec::new();
            for _ in 0..25 {
                let together = (0..10).map(|_| handle.increment(&bucket, "key", 1));
                counts.extend(join_all(together).await.into_iter().map(Result::unwrap));
            }
            counts
        })
    });
    let mut counts: Vec<i64> = Vec::new();
    for task in counting {
        counts.extend(task.await.unwrap());
    }
    counts.sort_unstable();
    assert_eq!(counts, (1..=500).collect::<Vec<_>>());
    assert_eq!(bench.handle.get(bucket, "key").await, Ok(Some("500".into())));
}

pub(crate) async fn two_swap_with_one_winner(bench: Bench) {
    let other = bench.open().await.worker();
    let Bench { handle, bucket, .. } = &bench;
    let mut current: Option<Bytes> = None;
    for round in 0..20 {
        let (ours, theirs) =
            (Bytes::from(format!("ours {round}")), Bytes::from(format!("theirs {round}")));
        let (a, b) = tokio::join!(
            handle.swap(bucket, "key", current.clone(), ours.clone()),
            other.swap(bucket, "key", current, theirs.clone())
        );
        current = match (a.unwrap(), b.unwrap()) {
            (Swapped::Yes, Swapped::No(Some(seen))) if seen == ours => Some(ours),
            (Swapped::No(Some(seen)), Swapped::Yes) if seen == theirs => Some(theirs),
            both => panic!("round {round}: {both:?}"),
        };
    }
}

/// Two hosts that lock several keys must take them in one order, or they wait for each other.
pub(crate) async fn two_write_the_same_keys_in_opposite_orders(bench: Bench) {
    const ROUNDS: i64 = 15;
    let (other, bucket) = (bench.open().await, &bench.bucket);
    let keys: Vec<String> = (0..24).map(|number| format!("key-{number}")).collect();
    let working = [(bench.state.clone(), false), (other, true)].map(|(state, backwards)| {
        let (bucket, mut keys) = (bucket.clone(), keys.clone());
        if backwards {
            keys.reverse();
        }
        tokio::spawn(async move {
            let handle = state.worker();
            for _ in 0..ROUNDS {
                let counting = keys.iter().map(|key| handle.increment(&bucket, key, 1));
                for count in join_all(counting).await {
                    count.unwrap();
                }
                let values: Vec<String> = keys.iter().map(|key| format!("value {key}")).collect();
                let pairs = values.iter().map(|key| (key.clone(), Bytes::from("v"))).collect();
                handle.set_many(&bucket, pairs).await.unwrap();
                handle.delete_many(&bucket, &values).await.unwrap();
            }
        })
    });
    for task in working {
        task.await.unwrap();
    }
    let expected = vec![Some(Bytes::from((2 * ROUNDS).to_string())); keys.len()];
    assert_eq!(bench.handle.get_many(bucket, &keys, usize::MAX).await, Ok(expected));
}

pub(crate) async fn one_sees_what_the_other_was_acknowledged(bench: Bench) {
    let other = bench::open(&bench.url()).await.worker();
    let Bench { handle, bucket, .. } = &bench;
    for round in 1..=20_i64 {
        assert_eq!(handle.increment(bucket, "count", 1).await, Ok(2 * round - 1));
        assert_eq!(other.get(bucket, "count").await, Ok(Some((2 * round - 1).to_string().into())));
        assert_eq!(other.increment(bucket, "count", 1).await, Ok(2 * round));
        assert_eq!(handle.get(bucket, "count").await, Ok(Some((2 * round).to_string().into())));
    }
    other.set(bucket, "count", "0".into()).await.unwrap();
    assert_eq!(handle.increment(bucket, "count", 1).await, Ok(1), "after a reset by the other");
}
