//! Real redis-server, Sentinel, PostgreSQL and PgBouncer processes for tests and measurements, certificates for
//! them, a proxy that cuts, stalls and delays connections, and a harness for fuzzing.
//!
//! Each server runs on a free port of 127.0.0.1 with a folder of its own, and is stopped and
//! removed when dropped. A server that is not installed is an error that says how to install it;
//! nothing is skipped.

#![forbid(unsafe_code)]

mod certificates;
mod fuzz;
mod pgbouncer;
mod postgres;
mod process;
mod proxy;
mod redis;
mod sentinel;
mod traffic;
mod weather;

pub use certificates::{Authority, Clients, Identity, Tls};
pub use fuzz::fuzz;
pub use pgbouncer::PgBouncer;
pub use postgres::{Durability, Postgres};
pub use process::{free_port, signal_process};
pub use proxy::Proxy;
pub use redis::{Redis, ask};
pub use sentinel::{SERVICE, Sentinel, Watched};
pub use traffic::Way;
pub use weather::Weather;

/// User, password and database of every server that this crate starts.
pub const TEST_USER: &str = "test_user";
/// See [`TEST_USER`].
pub const TEST_PASSWORD: &str = "test_pass";
/// See [`TEST_USER`].
pub const TEST_DATABASE: &str = "test_db";
