//! The host: runs HTTP handlers as WebAssembly plugins over shared, exact state.
//!
//! ```text
//! client ─▶ edge ─▶ registry ─▶ runtime ─▶ guest ─▶ interfaces ─▶ tally-state ─▶ SQLite | Redis | PostgreSQL
//! ```
//!
//! Each room knows only the next one. [`config`] is what all of it is told, [`server`] starts the
//! rooms in order and stops them again, `admin` shows what they do, and [`logging`] writes what they
//! report. `releases` keeps the registry at what was deployed, on this host or another. [`kv`] reaches the state from
//! outside, without a server; [`import`] makes a configuration from another host's.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a test that fails should stop where it fails"
    )
)]

mod admin;
pub mod config;
pub mod deploy;
pub mod edge;
pub mod import;
mod interfaces;
pub mod kv;
pub mod logging;
pub mod registry;
mod releases;
pub mod runtime;
pub mod server;
