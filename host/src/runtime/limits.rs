//! What a guest may use, with the reason for each default.

use std::{path::PathBuf, time::Duration};

use super::rate::Rate;

/// Limits of a guest, of each instance of it and of all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instances at work at once. By default what the guest declares decides: 1,000 of compiled
    /// code, 100 of those that carry an interpreter.
    pub pool: Option<usize>,
    /// Requests that may wait for an instance; beyond, refused at once. As many as the pool: the
    /// time to serve them is then about what was already being served.
    pub waiting: usize,
    /// Longest wait for an instance. A client that waited a second is better told to come back.
    pub wait: Duration,
    /// Requests in a second; any number, if none is given.
    pub rate: Option<Rate>,
    /// Parts of the machine's time that it is to have beside other guests that want more than there is.
    pub weight: u32,
    /// Longest time a guest may compute for one request. A handler of a counter takes
    /// microseconds; a tenth of a second is room for JSON, templates and cryptography.
    pub cpu: Duration,
    /// Longest time for one request in all, waiting for the store included. Above the state
    /// layer's own limit, so that its more exact answer comes first.
    pub wall: Duration,
    /// Largest linear memory of one instance, in bytes. By default what the guest declares
    /// decides: 16 MiB for compiled code, 128 MiB for those that carry an interpreter.
    pub memory: Option<usize>,
    /// Bytes that the bodies of its requests may take at once.
    pub bodies: usize,
    /// Bytes of its responses that may wait for their clients at once.
    pub responses: usize,
    /// Largest response body, in bytes.
    pub response: usize,
    /// Records of writes with an `Idempotency-Key` that the store may hold, and their bytes. Clients
    /// make up keys, so this bounds what they can fill. Twenty million are 230 a second all day.
    pub recordings: Recordings,
    /// How long records are kept.
    pub window: Duration,
    /// Whether a guest that imports what this host does not offer is refused. Guests of some toolchains import a
    /// whole world and call a part of it, so by default they run until they call what is missing.
    pub strict_imports: bool,
    /// Files of the components that its requests pass before it, the outermost first.
    pub middleware: Vec<PathBuf>,
}

/// Records of requests with an `Idempotency-Key`, and the bytes that they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recordings {
    /// Records of writes, and stored responses.
    pub records: u64,
    /// The bytes that they take in the store, about.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pool: None,
            waiting: 1_000,
            wait: Duration::from_secs(1),
            rate: None,
            weight: 100,
            cpu: Duration::from_millis(100),
            wall: Duration::from_secs(10),
            memory: None,
            bodies: 128 << 20,
            responses: 128 << 20,
            response: 4 << 20,
            recordings: Recordings { records: 20_000_000, bytes: 4 << 30 },
            window: Duration::from_secs(24 * 60 * 60),
            strict_imports: false,
            middleware: Vec::new(),
        }
    }
}
