//! Exact shared state for handlers that keep none of their own.
//!
//! A caller asks for an operation on a key in a named bucket and is answered once a backend has
//! applied it durably. In between stands the combiner: while one batch is on its way to the
//! backend, new operations gather; when it returns they go out as the next. Increments of one key
//! that stand next to each other become one addition, and each caller gets its own value out of
//! the total, so that a hot counter costs one command or one commit per batch, with exactly the
//! results of one operation at a time.
//!
//! ```text
//! State ──worker()──▶ Handle ──push──▶ Lane (queue) ──seal──▶ Plan ──apply──▶ Connection
//!                       ▲                                        │            of a Backend
//!                       └──────────── each caller's own ─────────┘
//! ```
//!
//! # Layout
//! - [`State`]: opening a backend by URL; [`Handle`]: the operations on it
//! - `operation`: what can be asked and answered; `semantics`: what each operation does to a value
//! - `idempotency`: writes that are applied once, however often their request is sent
//! - `name`, `counter`: what a bucket, a key and a counter may look like
//! - `plan`: which operations share a step, and whose share of the result is whose
//! - `lane`: the queue, the self-clocked loop, and where it runs; `reconnect`: what it does while
//!   there is no connection; `hold`: waiting for callers who are about to return
//! - `health`: whether operations would succeed
//! - `sweep`: removing what has expired
//! - `backend`: one file each for memory, SQLite, Redis and PostgreSQL
//!
//! This crate knows neither WebAssembly nor HTTP.

#![forbid(unsafe_code)]
#![deny(clippy::arithmetic_side_effects)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a test that fails should stop where it fails"
    )
)]

mod backend;
mod counter;
mod error;
mod handle;
mod health;
mod hold;
mod idempotency;
mod lane;
mod metrics;
mod name;
mod operation;
mod plan;
mod reconnect;
mod semantics;
mod state;
mod sweep;

pub use backend::{Description, sqlite_path};
pub use error::{Applied, Error, OpenError, Rejection};
pub use handle::Handle;
pub use health::Part;
pub use idempotency::{Digest, RecordMeter, Recorded, Scope};
pub use lane::Owner;
pub use metrics::Metrics;
pub use name::{Bucket, MAX_BUCKET_BYTES, MAX_KEY_BYTES, RESERVED};
pub use operation::{Bounded, BucketPage, Page, Swapped, TimeToLive};
pub use state::{Options, State};
