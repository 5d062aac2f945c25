//! What a guest is given by its configuration, whichever version of it runs.

use std::sync::Arc;

use wasmtime_wasi_config::WasiConfigVariables;

use super::{Buckets, Files, Outgoing};

/// A guest's own part of the configuration.
#[derive(Default)]
pub(crate) struct Settings {
    /// The guest's name in logs and metrics.
    pub(crate) name: Arc<str>,
    /// The buckets it may open.
    pub(crate) buckets: Buckets,
    /// Its environment variables.
    pub(crate) environment: Vec<(String, String)>,
    /// What `wasi:config/store` answers.
    pub(crate) variables: WasiConfigVariables,
    /// Bytes of an object that it may write with `wasi:blobstore`.
    pub(crate) blob_limit: usize,
    /// Whom it may send requests to.
    pub(crate) outgoing: Outgoing,
    /// Whom it may connect to by TCP.
    pub(crate) tcp: Outgoing,
    /// The files it may use.
    pub(crate) files: Files,
}
