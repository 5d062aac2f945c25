//! Compare-and-swap.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tally_state::Swapped;

use crate::bench::{Bench, at_once};

fn some(text: &'static str) -> Option<Bytes> {
    Some(Bytes::from(text))
}

pub(crate) async fn a_missing_key_is_created_once(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    for (key, first) in [("text", "first"), ("count", "5"), ("empty", "")] {
        assert_eq!(handle.swap(&bucket, key, None, first.into()).await, Ok(Swapped::Yes));
        assert_eq!(
            handle.swap(&bucket, key, None, "second".into()).await,
            Ok(Swapped::No(some(first)))
        );
        assert_eq!(handle.get(&bucket, key).await, Ok(some(first)));
    }
}

pub(crate) async fn a_swap_needs_the_value_it_names(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    assert_eq!(
        handle.swap(&bucket, "key", some("a"), "b".into()).await,
        Ok(Swapped::No(None)),
        "a missing key holds no value"
    );
    assert_eq!(handle.exists(&bucket, "key").await, Ok(false));
    handle.set(&bucket, "key", "a".into()).await.unwrap();
    assert_eq!(
        handle.swap(&bucket, "key", some("x"), "b".into()).await,
        Ok(Swapped::No(some("a")))
    );
    assert_eq!(handle.get(&bucket, "key").await, Ok(some("a")));
    assert_eq!(handle.swap(&bucket, "key", some("a"), "b".into()).await, Ok(Swapped::Yes));
    assert_eq!(handle.swap(&bucket, "key", some("b"), "b".into()).await, Ok(Swapped::Yes));
    assert_eq!(handle.get(&bucket, "key").await, Ok(some("b")));
    let binary = Bytes::from_static(b"\x00\xff");
    assert_eq!(handle.swap(&bucket, "key", some("b"), binary.clone()).await, Ok(Swapped::Yes));
    assert_eq!(handle.swap(&bucket, "key", Some(binary), "".into()).await, Ok(Swapped::Yes));
    assert_eq!(handle.swap(&bucket, "key", some(""), "c".into()).await, Ok(Swapped::Yes));
    assert_eq!(handle.get(&bucket, "key").await, Ok(some("c")));
}

pub(crate) async fn a_counter_is_swapped_by_its_text(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    handle.increment(&bucket, "key", 5).await.unwrap();
    assert_eq!(
        handle.swap(&bucket, "key", some("6"), "7".into()).await,
        Ok(Swapped::No(some("5")))
    );
    assert_eq!(handle.swap(&bucket, "key", some("5"), "7".into()).await, Ok(Swapped::Yes));
    assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(8));
    assert_eq!(handle.swap(&bucket, "key", some("8"), "text".into()).await, Ok(Swapped::Yes));
    assert_eq!(handle.swap(&bucket, "key", some("text"), "-1".into()).await, Ok(Swapped::Yes));
    assert_eq!(handle.increment(&bucket, "key", 1).await, Ok(0));
}

pub(crate) async fn values_that_look_alike_are_different(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    for (held, alike) in
        [("5", "05"), ("05", "5"), ("0", "-0"), ("0", ""), ("", "0"), ("1", "1.0"), ("a", "A")]
    {
        handle.set(&bucket, "key", held.into()).await.unwrap();
        assert_eq!(
            handle.swap(&bucket, "key", some(alike), "new".into()).await,
            Ok(Swapped::No(some(held)))
        );
        assert_eq!(handle.swap(&bucket, "key", some(held), "new".into()).await, Ok(Swapped::Yes));
    }
}

pub(crate) async fn one_of_many_swaps_wins_each_round(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    let mut current: Option<Bytes> = None;
    for round in 0..20 {
        // Texts and counters in turn, as backends may store them differently.
        let value = |contender: usize| match round % 2 {
            0 => Bytes::from(format!("{round}-{contender}")),
            _ => Bytes::from(format!("{}", round * 100 + contender)),
        };
        let swaps =
            (0..8).map(|contender| handle.swap(&bucket, "key", current.clone(), value(contender)));
        let answers = join_all(swaps).await;
        let winners: Vec<usize> =
            (0..8).filter(|contender| answers[*contender] == Ok(Swapped::Yes)).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        current = Some(value(winners[0]));
        for (contender, answer) in answers.into_iter().enumerate() {
            if contender != winners[0] {
                assert_eq!(answer, Ok(Swapped::No(current.clone())), "losers see the winner");
            }
        }
        assert_eq!(handle.get(&bucket, "key").await, Ok(current.clone()));
    }
}

pub(crate) async fn counting_by_swaps_loses_nothing(bench: Bench) {
    const EACH: usize = 10;
    let bucket = Arc::new(bench.bucket.clone());
    at_once(&bench.state, 4, |_, handle| {
        let bucket = Arc::clone(&bucket);
        async move {
            let mut seen: Option<Bytes> = None;
            let mut won = 0;
            while won < EACH {
                let number: usize = seen
                    .as_ref()
                    .map_or(0, |text| std::str::from_utf8(text).unwrap().parse().unwrap());
                let next = Bytes::from((number + 1).to_string());
                match handle.swap(&bucket, "key", seen, next.clone()).await.unwrap() {
                    Swapped::Yes => {
                        won += 1;
                        seen = Some(next);
                    }
                    Swapped::No(current) => seen = current,
                }
            }
        }
    })
    .await;
    assert_eq!(bench.handle.get(&bucket, "key").await, Ok(some("40")));
}
