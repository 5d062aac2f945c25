//! The contract: what every backend promises, as cases that all of them run.
//!
//! One test for each backend starts the real server once and runs every case in buckets of the
//! case's own. Cases go on after one has failed, and the test's message names all that did.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that fails should stop where it fails"
)]

mod bench;
mod counters;
mod hosts;
mod idempotency;
mod limits;
mod listing;
mod lives;
mod many;
mod outside;
mod swaps;
mod values;

use bench::{Case, Cases, Store};
use tally_testkit::{Durability, Postgres, Redis};

/// A list of cases by module and name.
macro_rules! cases {
    ($($module:ident { $($case:ident),+ $(,)? })+) => {
        vec![$($((
            concat!(stringify!($module), "::", stringify!($case)),
            (|bench| Box::pin($module::$case(bench))) as Case,
        )),+),+]
    };
}

/// What one open backend does.
fn alone() -> Cases {
    cases! {
        values {
            a_missing_key_has_no_value,
            any_bytes_come_back_as_they_were_set,
            a_deleted_key_is_gone,
            an_acknowledged_write_is_seen_by_the_next_read,
            an_acknowledged_write_is_seen_by_another_worker,
        }
        counters {
            a_missing_key_counts_from_zero,
            a_count_reads_as_decimal_text,
            a_number_that_was_set_counts_on,
            what_is_no_canonical_number_is_refused_and_kept,
            leaving_the_range_is_refused_and_changes_nothing,
            concurrent_increments_are_distinct_and_without_gaps,
            concurrent_deltas_of_both_signs_add_up,
            of_a_sum_that_overflows_only_those_at_fault_fail,
            one_bad_key_in_a_batch_fails_alone,
            a_reset_is_never_undone_in_part,
            a_report_never_goes_back,
            of_huge_increments_at_once_one_fits,
            opposite_signs_are_refused_one_by_one,
            operations_of_one_key_keep_their_order,
            a_reset_loses_nothing_that_comes_after_it,
        }
        swaps {
            a_missing_key_is_created_once,
            a_swap_needs_the_value_it_names,
            a_counter_is_swapped_by_its_text,
            values_that_look_alike_are_different,
            one_of_many_swaps_wins_each_round,
            counting_by_swaps_loses_nothing,
        }
        listing {
            every_key_is_listed_as_it_was_set,
            an_empty_bucket_lists_nothing,
            no_bucket_lists_the_keys_of_another,
            separators_in_names_do_not_let_buckets_meet,
            a_cursor_that_was_never_given_out_is_refused,
            keys_that_stay_are_listed_while_others_come_and_go,
            buckets_are_listed_while_they_hold_keys,
            a_cursor_of_buckets_that_was_never_given_out_is_refused,
        }
        lives {
            an_increment_gives_what_it_creates_its_time,
            an_increment_within_bounds_gives_what_it_creates_its_time,
            a_key_is_missing_once_its_time_is_over,
            what_is_changed_in_place_keeps_its_time,
            a_time_to_live_is_given_and_taken,
            a_time_out_of_bounds_is_refused,
            what_a_reset_replaces_and_what_is_left_add_up,
            bounds_hold_whatever_comes_at_once,
            extreme_bounds_are_exact,
            a_prefix_lists_what_begins_with_it,
        }
        idempotency {
            a_call_on_several_keys_happens_once,
            a_write_that_was_gone_without_stays_undone,
            buckets_do_not_share_records,
            increments_of_all_sorts_share_a_batch,
            another_request_under_the_same_token_changes_nothing,
            a_write_that_is_left_out_does_not_answer_for_another,
        }
        limits {
            keys_up_to_the_limit_are_taken,
            keys_out_of_bounds_are_refused,
            values_up_to_the_limit_are_taken_and_larger_ones_refused,
            one_call_names_no_more_keys_than_allowed,
        }
        many {
            values_come_in_the_order_asked_for,
            several_keys_are_set,
            a_key_set_twice_in_one_call_keeps_the_last_value,
            several_keys_are_deleted,
            one_key_out_of_bounds_leaves_all_unchanged,
        }
    }
}

/// What several hosts with one store do.
fn together() -> Cases {
    cases! {
        hosts {
            many_may_open_a_new_store_at_once,
            two_count_exactly,
            two_swap_with_one_winner,
            two_write_the_same_keys_in_opposite_orders,
            one_sees_what_the_other_was_acknowledged,
        }
        idempotency {
            every_write_happens_once,
            writes_made_at_once_happen_once_in_any_order,
            one_token_sent_by_many_at_once_counts_once,
            tokens_and_plain_increments_count_exactly_together,
            a_response_is_stored_once,
            a_repeat_is_told_of_its_response,
            records_are_forgotten_after_their_time,
        }
    }
}

fn everything() -> Cases {
    let mut cases = alone();
    cases.extend(together());
    cases
}

#[test]
fn memory() {
    // Two hosts cannot share it.
    bench::run(&Store::Memory, alone());
}

#[test]
fn sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let mut cases = everything();
    cases.extend(cases! { outside { sqlite_gives_room_back, records_of_earlier_versions_are_said_not_to_be_read } });
    bench::run(&Store::Sqlite(dir.path().to_owned()), cases);
}

#[test]
fn redis() {
    let server = Redis::start().unwrap();
    let mut cases = everything();
    cases.extend(cases! { outside { redis_keys_are_plain_strings, a_redis_list_is_no_value } });
    bench::run(&Store::Redis(server.url()), cases);
}

#[test]
fn postgres() {
    let server = Postgres::start(Durability::Unsynced).unwrap();
    let mut cases = everything();
    cases.extend(cases! {
        outside {
            postgres_counters_are_plain_numbers,
            postgres_gives_room_back,
            records_of_earlier_versions_are_said_not_to_be_read,
            postgres_saw_no_deadlock,
        }
    });
    bench::run(&Store::Postgres(server.url()), cases);
}
