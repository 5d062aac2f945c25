//! What a guest may use, with the reason for each default.

use std::time::Duration;

/// Limits of the pool and of each guest in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instances at work at once. Each reserves address space and keeps little memory, so the
    /// default is more than two cores can use, and bounds what a slow store can pile up.
    pub pool: usize,
    /// Requests that may wait for an instance; beyond, refused at once. As many as the pool: the
    /// time to serve them is then about what was already being served.
    pub waiting: usize,
    /// Longest wait for an instance. A client that waited a second is better told to come back.
    pub wait: Duration,
    /// Longest time a guest may compute for one request. A handler of a counter takes
    /// microseconds; a tenth of a second is room for JSON, templates and cryptography.
    pub cpu: Duration,
    /// Longest time for one request in all, waiting for the store included. Above the state
    /// layer's own limit, so that its more exact answer comes first.
    pub wall: Duration,
    /// Largest linear memory of one instance, in bytes.
    pub memory: usize,
    /// Largest response body, in bytes.
    pub response: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pool: 1_000,
            waiting: 1_000,
            wait: Duration::from_secs(1),
            cpu: Duration::from_millis(100),
            wall: Duration::from_secs(10),
            memory: 16 << 20,
            response: 4 << 20,
        }
    }
}
