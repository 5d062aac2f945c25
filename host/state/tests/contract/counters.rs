//! Counters: exact under concurrency, and refused without effect where they cannot count.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::join_all;
use tally_state::{Error, Rejection, Swapped};

use crate::bench::{Bench, at_once};

pub(crate) async fn a_missing_key_counts_from_zero(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    assert_eq!(handle.increment(&bucket, "up", 1).await, Ok(1));
    assert_eq!(handle.increment(&bucket, "up", 41).await, Ok(42));
    assert_eq!(handle.increment(&bucket, "down", -3).await, Ok(-3));
    assert_eq!(handle.increment(&bucket, "still", 0).await, Ok(0));
    assert_eq!(handle.exists(&bucket, "still").await, Ok(true), "adding zero creates the key");
    assert_eq!(handle.increment(&bucket, "largest", i64::MAX).await, Ok(i64::MAX));
    assert_eq!(handle.increment(&bucket, "smallest", i64::MIN).await, Ok(i64::MIN));
}

pub(crate) async fn a_count_reads_as_decimal_text(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    for (key, deltas, text) in [
        ("one", &[1][..], "1"),
        ("zero", &[5, -5], "0"),
        ("negative", &[5, -15], "-10"),
        ("largest", &[i64::MAX], "9223372036854775807"),
        ("smallest", &[i64::MIN], "-9223372036854775808"),
        ("across", &[i64::MIN, i64::MAX], "-1"),
    ] {
        for delta in deltas {
            handle.increment(&bucket, key, *delta).await.unwrap();
        }
        assert_eq!(handle.get(&bucket, key).await, Ok(Some(text.into())), "{key}");
    }
}

pub(crate) async fn a_number_that_was_set_counts_on(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    for (text, delta, count) in [
        ("42", 1, 43),
        ("0", -1, -1),
        ("-7", 7, 0),
        ("9223372036854775806", 1, i64::MAX),
        ("-9223372036854775808", 1, i64::MIN + 1),
        ("9223372036854775807", i64::MIN, -1),
    ] {
        handle.set(&bucket, "key", text.into()).await.unwrap();
        assert_eq!(handle.increment(&bucket, "key", delta).await, Ok(count), "{text} + {delta}");
        assert_eq!(handle.get(&bucket, "key").await, Ok(Some(count.to_string().into())));
    }
}

pub(crate) async fn what_is_no_canonical_number_is_refused_and_kept(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    for value in [
        &b"007"[..],
        b"+1",
        b" 1",
        b"1 ",
        b"1\n",
        b"1.5",
        b"",
        b"-",
        b"-0",
        b"00",
        b"1e3",
        b"0x10",
        b"9223372036854775808",
        b"-9223372036854775809",
        b"99999999999999999999999999",
        b"count",
        b"\x00",
        b"\xff\xfe",
        b"1\x00",
        "١".as_bytes(),
    ] {
        handle.set(&bucket, "key", value.into()).await.unwrap();
        for delta in [1, -1, 0] {
            assert_eq!(
                handle.increment(&bucket, "key", delta).await,
                Err(Error::Rejected(Rejection::NotANumber)),
                "{value:?} + {delta}"
            );
        }
        assert_eq!(handle.get(&bucket, "key").await, Ok(Some(value.into())), "unchanged");
    }
}

pub(crate) async fn leaving_the_range_is_refused_and_changes_nothing(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    for (start, delta) in [
        (i64::MAX, 1),
        (i64::MAX - 1, 2),
        (1, i64::MAX),
        (i64::MAX, i64::MAX),
        (i64::MIN, -1),
        (i64::MIN + 1, -2),
        (-1, i64::MIN),
        (i64::MIN, i64::MIN),
    ] {
        handle.set(&bucket, "key", start.to_string().into()).await.unwrap();
        assert_eq!(
            handle.increment(&bucket, "key", delta).await,
            Err(Error::Rejected(Rejection::Overflow)),
            "{start} + {delta}"
        );
        assert_eq!(handle.get(&bucket, "key").await, Ok(Some(start.to_string().into())));
    }
}

pub(crate) async fn concurrent_increments_are_distinct_and_without_gaps(bench: Bench) {
    const WORKERS: usize = 4;
    const ROUNDS: usize = 10;
    const TOGETHER: usize = 25;
    let bucket = Arc::new(bench.bucket.clone());
    let counts = at_once(&bench.state, WORKERS, |_, handle| {
        let bucket = Arc::clone(&bucket);
        async move {
            let mut counts = Vec::new();
            let mut least = 0;
            for _ in 0..ROUNDS {
                let together = (0..TOGETHER).map(|_| handle.increment(&bucket, "key", 1));
                let round: Vec<i64> =
                    join_all(together).await.into_iter().map(Result::unwrap).collect();
                // What was answered before is smaller than what was asked for after.
                assert!(round.iter().all(|count| *count > least), "{round:?} after {least}");
                least = round.iter().copied().max().unwrap();
                counts.extend(round);
            }
            counts
        }
    })
    .await;
    let mut counts = counts.concat();
    counts.sort_unstable();
    let total = i64::try_from(WORKERS * ROUNDS * TOGETHER).unwrap();
    assert_eq!(counts, (1..=total).collect::<Vec<_>>());
    assert_eq!(bench.handle.get(&bucket, "key").await, Ok(Some(total.to_string().into())));
}

pub(crate) async fn concurrent_deltas_of_both_signs_add_up(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    let deltas: Vec<i64> = (-60..=70).collect();
    let counts =
        join_all(deltas.iter().map(|delta| handle.increment(&bucket, "key", *delta))).await;
    assert!(counts.iter().all(Result::is_ok), "{counts:?}");
    let sum: i64 = deltas.iter().sum();
    assert_eq!(handle.get(&bucket, "key").await, Ok(Some(sum.to_string().into())));
}

pub(crate) async fn of_a_sum_that_overflows_only_those_at_fault_fail(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    for (start, delta) in [(i64::MAX - 12, 1), (i64::MIN + 12, -1)] {
        handle.set(&bucket, "key", start.to_string().into()).await.unwrap();
        let answers = join_all((0..40).map(|_| handle.increment(&bucket, "key", delta))).await;
        let mut counts = Vec::new();
        for answer in answers {
            match answer {
                Ok(count) => counts.push(count),
                Err(error) => assert_eq!(error, Error::Rejected(Rejection::Overflow)),
            }
        }
        counts.sort_unstable_by_key(|count| (count - start) * delta);
        let expected: Vec<i64> = (1..=12).map(|step| start + step * delta).collect();
        assert_eq!(counts, expected, "from {start} by {delta}");
    }
}

pub(crate) async fn one_bad_key_in_a_batch_fails_alone(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    handle.set(&bucket, "bad", "text".into()).await.unwrap();
    handle.set(&bucket, "full", i64::MAX.to_string().into()).await.unwrap();
    for round in 1..=5 {
        let keys = ["a", "bad", "b", "full", "c", "bad", "a"];
        let answers = join_all(keys.map(|key| handle.increment(&bucket, key, 1))).await;
        assert_eq!(answers[2], Ok(round));
        assert_eq!(answers[4], Ok(round));
        assert_eq!(answers[1], Err(Error::Rejected(Rejection::NotANumber)));
        assert_eq!(answers[5], Err(Error::Rejected(Rejection::NotANumber)));
        assert_eq!(answers[3], Err(Error::Rejected(Rejection::Overflow)));
        let mut both = [answers[0].clone().unwrap(), answers[6].clone().unwrap()];
        both.sort_unstable();
        assert_eq!(both, [2 * round - 1, 2 * round]);
    }
}

/// A reset counts as one operation among the increments: those before it go on from the old count,
/// those after it start at 1, and nothing else happens.
pub(crate) async fn a_reset_is_never_undone_in_part(bench: Bench) {
    const BASE: i64 = 1_000_000;
    let Bench { handle, bucket, .. } = &bench;
    for round in 0..15_usize {
        handle.set(bucket, "key", BASE.to_string().into()).await.unwrap();
        // Another worker resets, so that its operation may use another connection.
        let other = bench.state.worker();
        let increments = (0..30_usize).map(|number| async move {
            if number % 7 == round % 7 {
                tokio::task::yield_now().await;
            }
            handle.increment(bucket, "key", 1).await.unwrap()
        });
        let (counts, reset) =
            tokio::join!(join_all(increments), other.set(bucket, "key", "0".into()));
        reset.unwrap();
        let (mut before, mut after): (Vec<i64>, Vec<i64>) =
            counts.into_iter().partition(|count| *count > BASE / 2);
        before.sort_unstable();
        after.sort_unstable();
        assert_eq!(before, (1..).map(|n| BASE + n).take(before.len()).collect::<Vec<_>>());
        assert_eq!(after, (1..).take(after.len()).collect::<Vec<_>>());
        let last = handle.get(bucket, "key").await.unwrap().unwrap();
        assert_eq!(last, after.len().to_string(), "{} counted before the reset", before.len());
    }
}

/// While others count, each report lies between what was acknowledged before it was asked for and
/// what was asked for before it was answered.
pub(crate) async fn a_report_never_goes_back(bench: Bench) {
    let bucket = Arc::new(bench.bucket.clone());
    at_once(&bench.state, 4, |worker, handle| {
        let bucket = Arc::clone(&bucket);
        async move {
            let mut least = 0;
            for _ in 0..60 {
                let seen = if worker % 2 == 0 {
                    handle.increment(&bucket, "key", 1).await.unwrap()
                } else {
                    let value = handle.get(&bucket, "key").await.unwrap();
                    value.map_or(0, |text| std::str::from_utf8(&text).unwrap().parse().unwrap())
                };
                assert!(seen >= least && seen <= 120, "{seen} after {least}");
                least = seen;
            }
        }
    })
    .await;
    assert_eq!(bench.handle.get(&bucket, "key").await, Ok(Some("120".into())));
}

/// Sums that leave the range before they reach the store.
pub(crate) async fn of_huge_increments_at_once_one_fits(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    let huge = i64::MAX / 2 + 1;
    let answers = join_all((0..20).map(|_| handle.increment(&bucket, "key", huge))).await;
    assert_eq!(answers.iter().filter(|answer| **answer == Ok(huge)).count(), 1);
    let overflow = Err(Error::Rejected(Rejection::Overflow));
    assert_eq!(answers.iter().filter(|answer| **answer == overflow).count(), 19);
    assert_eq!(handle.get(&bucket, "key").await, Ok(Some(huge.to_string().into())));
}

/// Workers increment without a pause while another resets. Every number from the reset to the last
/// was given to somebody who was not answered before the reset was asked for, and whoever asked
/// after it was answered is among them, each with a number of its own.
pub(crate) async fn a_reset_loses_nothing_that_comes_after_it(bench: Bench) {
    let (bucket, pause) = (&bench.bucket, std::time::Duration::from_millis(30));
    for round in 0..3 {
        let key = format!("key {round}");
        let moments: [Arc<AtomicBool>; 3] = Default::default();
        let [asked, answered, stop] = &moments;
        let counting = at_once(&bench.state, 8, |_, handle| {
            let (bucket, key, [asked, answered, stop]) =
                (bucket.clone(), key.clone(), moments.clone());
            async move {
                let (mut during, mut after) = (Vec::new(), Vec::new());
                while !stop.load(Ordering::SeqCst) {
                    let is_after = answered.load(Ordering::SeqCst);
                    let count = handle.increment(&bucket, &key, 1).await.unwrap();
                    if is_after {
                        after.push(count);
                    } else if asked.load(Ordering::SeqCst) {
                        during.push(count);
                    }
                }
                (during, after)
            }
        });
        let resetting = async {
            tokio::time::sleep(pause).await;
            asked.store(true, Ordering::SeqCst);
            bench.handle.set(bucket, &key, "0".into()).await.unwrap();
            answered.store(true, Ordering::SeqCst);
            tokio::time::sleep(pause).await;
            stop.store(true, Ordering::SeqCst);
        };
        let (counts, ()) = tokio::join!(counting, resetting);
        let (during, after): (Vec<Vec<i64>>, Vec<Vec<i64>>) = counts.into_iter().unzip();
        let (during, after) = (during.concat(), after.concat());
        let held = bench.handle.get(bucket, &key).await.unwrap().unwrap();
        let last: i64 = std::str::from_utf8(&held).unwrap().parse().unwrap();
        let distinct: BTreeSet<i64> = after.iter().copied().collect();
        assert_eq!(distinct.len(), after.len(), "a number was given twice: {after:?}");
        assert!(distinct.iter().all(|count| (1..=last).contains(count)), "{last}: {after:?}");
        let given: BTreeSet<i64> = during.into_iter().chain(after).collect();
        let nobodys: Vec<i64> = (1..=last).filter(|count| !given.contains(count)).collect();
        assert!(nobodys.is_empty(), "counted up to {last}, and {nobodys:?} were nobody's");
    }
}

/// Merged, each of these pairs would look as if it stayed within the range.
pub(crate) async fn opposite_signs_are_refused_one_by_one(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    let overflow = Err(Error::Rejected(Rejection::Overflow));
    for _ in 0..20 {
        for (start, over, back) in [(i64::MAX, 1, -1), (i64::MIN, -1, 1)] {
            handle.set(&bucket, "key", start.to_string().into()).await.unwrap();
            let answers = tokio::join!(
                handle.increment(&bucket, "key", over),
                handle.increment(&bucket, "key", back),
            );
            assert_eq!(answers, (overflow.clone(), Ok(start + back)));
        }
    }
}

/// What one caller asks for on a key without waiting is applied in the order it was asked for, so
/// that nothing joins an increment on the other side of a reset.
pub(crate) async fn operations_of_one_key_keep_their_order(bench: Bench) {
    let Bench { handle, bucket, .. } = bench;
    for _ in 0..20 {
        handle.set(&bucket, "key", "100".into()).await.unwrap();
        let increment = || handle.increment(&bucket, "key", 1);
        // Polled, and so queued, from the first to the last.
        let (a, b, set, c, d, deleted, e, f) = tokio::join!(
            increment(),
            increment(),
            handle.set(&bucket, "key", "0".into()),
            increment(),
            increment(),
            handle.delete(&bucket, "key"),
            increment(),
            handle.swap(&bucket, "key", Some("1".into()), "7".into()),
        );
        assert_eq!((a, b, set, c, d), (Ok(101), Ok(102), Ok(()), Ok(1), Ok(2)));
        assert_eq!((deleted, e, f), (Ok(()), Ok(1), Ok(Swapped::Yes)));
        assert_eq!(handle.get(&bucket, "key").await, Ok(Some("7".into())));
    }
}
