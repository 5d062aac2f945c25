//! The counter in languages that bring their interpreter along: the same suite over HTTP as for the
//! compiled ones. `just test-guests` builds the guests and runs it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that fails should stop where it fails"
)]
#![allow(
    unreachable_pub,
    dead_code,
    reason = "the modules of two test programs share what is public"
)]

#[path = "../host/client.rs"]
mod client;
#[path = "../host/counter.rs"]
mod counter;
mod fastapi;
#[path = "../host/host.rs"]
mod host;
mod interpreters;

counter_suite!(javascript_counter, "counter-js");
counter_suite!(python_counter, "counter-py");
counter_suite!(python_p3_counter, "counter-py-p3");
