//! The host from outside: the real program, real guests, real stores, over HTTP.
//!
//! The guests come from `just build-test-guests`, the servers from `tally-testkit`. What is missing
//! is an error that says how to get it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test that fails should stop where it fails"
)]
#![allow(unreachable_pub, reason = "the modules of one test program share what is public")]

mod admin;
mod blobstore;
mod client;
mod command_line;
mod concurrent;
mod connections;
mod counter;
mod counting;
mod crashes;
mod documents;
mod effects;
mod extensions;
mod files;
mod fuzz;
mod host;
mod hostile_clients;
mod hostile_guests;
mod idempotency;
mod idle;
mod imports;
mod interfaces;
mod internal;
mod kv;
mod labels;
mod listening;
mod logging;
mod many;
mod middleware;
mod modules;
mod operations;
mod overload;
mod parking;
mod proxies;
mod raw;
mod readiness;
mod releases;
mod routing;
mod shapes;
mod slow_clients;
mod sockets;
mod spin;
mod spin_p3;
mod standard;
mod state_in_guests;
mod stopping;
mod swapping;
mod tls;

counter_suite!(plugin_counter, "counter");
counter_suite!(http_counter, "counter-http");
counter_suite!(p3_counter, "counter-p3");
counter_suite!(module_counter, "counter-module");
standard_suite!(standard_http, "probe-http");
standard_suite!(standard_p3, "probe-p3");
