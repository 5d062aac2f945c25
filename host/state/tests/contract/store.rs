//! An open backend as a case sees it, and running the cases.

use std::{any::Any, collections::BTreeSet};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tally_state::{Bucket, Error, Handle, Metrics, Options, Rejection, State};
use tokio::task::JoinHandle;

use crate::{counters, hosts, listings, several, swaps, values};

/// What a case is given: an open backend, and a bucket that no other case uses.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) url: String,
    pub(crate) state: State,
    pub(crate) handle: Handle,
    pub(crate) bucket: Bucket,
}

impl Store {
    /// Whether this is the backend of that name.
    pub(crate) fn is(&self, backend: &str) -> bool {
        self.state.description().backend == backend
    }

    /// Another bucket of the case's own, whose name ends as given.
    pub(crate) fn other(&self, name: &str) -> Bucket {
        Bucket::new(&format!("{}/{name}", self.bucket.as_str())).unwrap()
    }

    pub(crate) async fn get(&self, key: &str) -> Option<Bytes> {
        self.handle.get(&self.bucket, key).await.unwrap()
    }

    pub(crate) async fn set(&self, key: &str, value: impl Into<Bytes>) {
        self.handle.set(&self.bucket, key, value.into()).await.unwrap();
    }

    pub(crate) async fn increment(&self, key: &str, delta: i64) -> Result<i64, Error> {
        self.handle.increment(&self.bucket, key, delta).await
    }

    /// The number a key holds.
    pub(crate) async fn number(&self, key: &str) -> i64 {
        let value = self.get(key).await.expect("the key exists");
        std::str::from_utf8(&value).unwrap().parse().unwrap()
    }

    /// Starts this many increments of one key at once.
    pub(crate) fn increments(
        &self,
        key: &str,
        delta: i64,
        count: usize,
    ) -> Vec<JoinHandle<Result<i64, Error>>> {
        (0..count)
            .map(|_| {
                let (store, key) = (self.clone(), key.to_owned());
                tokio::spawn(async move { store.increment(&key, delta).await })
            })
            .collect()
    }
}

/// Awaits tasks that were started together.
pub(crate) async fn all<T>(tasks: Vec<JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

/// Fails unless the counts are each number of a range once.
pub(crate) fn assert_gapless(counts: &[i64], range: std::ops::RangeInclusive<i64>) {
    let distinct: BTreeSet<i64> = counts.iter().copied().collect();
    assert_eq!(distinct.len(), counts.len(), "a value was given twice: {counts:?}");
    assert_eq!(distinct, range.collect::<BTreeSet<_>>());
}

/// The rejection that an operation must have ended with.
pub(crate) fn rejection<T: std::fmt::Debug>(result: Result<T, Error>) -> Rejection {
    match result {
        Err(Error::Rejected(rejection)) => rejection,
        other => panic!("expected a rejection, got {other:?}"),
    }
}

type Case = fn(Store) -> BoxFuture<'static, ()>;

/// A table of cases with their names.
macro_rules! cases {
    ($($module:ident: $($name:ident),+;)+) => {
        &[$($((
            concat!(stringify!($module), "::", stringify!($name)),
            (|store| Box::pin($module::$name(store))) as Case,
        )),+),+]
    };
}

const CASES: &[(&str, Case)] = cases! {
    values:
        a_missing_key_has_no_value,
        any_bytes_come_back_as_they_were,
        a_value_at_the_limit_is_taken_and_one_byte_more_is_refused,
        a_key_exists_from_its_first_write_to_its_deletion,
        a_written_value_is_visible_to_the_next_read,
        keys_are_taken_up_to_their_limit,
        a_refused_operation_changes_nothing;
    counters:
        a_missing_key_counts_from_zero,
        a_counter_is_read_as_decimal_text,
        a_number_that_was_set_counts_on,
        what_is_no_number_is_refused_and_kept,
        both_ends_of_the_range_are_reached_and_not_left,
        many_at_once_get_each_value_once,
        many_keys_at_once_keep_apart,
        of_a_sum_that_overflows_only_those_at_fault_fail,
        mixed_signs_add_up,
        a_reset_loses_nothing_that_comes_after_it;
    swaps:
        a_missing_key_is_swapped_in_once,
        a_mismatch_gives_the_current_value,
        counters_and_bytes_are_compared_alike,
        of_many_at_once_one_wins,
        a_counter_made_of_swaps_is_exact;
    listings:
        an_empty_bucket_has_one_empty_page,
        every_key_is_listed_and_none_of_its_neighbours,
        keys_that_stay_are_listed_while_others_come_and_go,
        buckets_and_keys_meet_nowhere,
        a_cursor_of_nobody_is_refused;
    several:
        values_come_in_the_order_asked_for,
        all_are_set_and_the_last_of_equal_keys_stays,
        all_are_deleted_missing_or_not,
        no_keys_are_no_error,
        more_keys_than_the_limit_are_refused,
        one_wrong_key_refuses_all;
    hosts:
        two_count_exactly,
        two_do_not_lock_each_other_out;
};

/// Runs the whole contract against a store that was never used before.
pub(crate) async fn run(url: &str) {
    let mut failures = Vec::new();
    // Before anybody else opens it: the store is to be fresh.
    if !url.starts_with("memory:") {
        let opened = tokio::spawn(hosts::eight_open_a_fresh_store_at_once(url.to_owned()));
        note(&mut failures, "hosts::eight_open_a_fresh_store_at_once", opened).await;
    }
    let state = State::open(url, Options::default(), Metrics::default()).await.unwrap();
    let handle = state.worker();
    handle.check().await.unwrap();
    let start = |part: &str, (name, case): &(&'static str, Case)| {
        let bucket = Bucket::new(&format!("{part}/{name}")).unwrap();
        let (state, handle) = (state.clone(), handle.clone());
        tokio::spawn(case(Store { url: url.to_owned(), state, handle, bucket }))
    };
    for case in CASES {
        note(&mut failures, case.0, start("alone", case)).await;
    }
    let together: Vec<_> = CASES.iter().map(|case| (case.0, start("together", case))).collect();
    for (name, task) in together {
        note(&mut failures, &format!("{name}, with all cases at once"), task).await;
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

/// Awaits a case and notes its failure.
async fn note(failures: &mut Vec<String>, name: &str, task: JoinHandle<()>) {
    if let Err(error) = task.await {
        let reason = error.try_into_panic().map_or_else(|error| error.to_string(), text);
        failures.push(format!("- {name}: {reason}"));
    }
}

fn text(panic: Box<dyn Any + Send>) -> String {
    panic.downcast::<String>().map_or_else(
        |panic| panic.downcast::<&str>().map_or_else(|_| "panicked".into(), |text| (*text).into()),
        |text| *text,
    )
}
