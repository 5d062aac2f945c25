//! What a guest is given by its configuration, whichever version of it runs.

use std::{collections::BTreeMap, sync::Arc};

use super::{Buckets, Databases, Files, Outgoing};

/// A guest's own part of the configuration.
#[derive(Default)]
pub(crate) struct Settings {
    /// The guest's name in logs and metrics.
    pub(crate) name: Arc<str>,
    /// The buckets it may open.
    pub(crate) buckets: Buckets,
    /// Its environment variables.
    pub(crate) environment: Vec<(String, String)>,
    /// What `wasi:config/store` and Spin's variables answer.
    pub(crate) variables: BTreeMap<String, String>,
    /// Bytes of an object that it may write with `wasi:blobstore`.
    pub(crate) blob_limit: usize,
    /// Whom it may send requests to, and connect to.
    pub(crate) outgoing: Outgoing,
    /// Whom it may connect to by TCP.
    pub(crate) tcp: Outgoing,
    /// The files it may use.
    pub(crate) files: Files,
    /// The host that its route names: its own requests without a host are for that one.
    pub(crate) host: Option<String>,
    /// The database files it may open.
    pub(crate) databases: Databases,
    /// Whether its requests have the headers that Spin adds; `None` where that is found out from what
    /// it imports.
    pub(crate) spin_headers: Option<bool>,
}

impl Settings {
    /// Whether the guest may change what is not in the store: such a change has no record there, and
    /// would be made again.
    pub(crate) fn reaches_beyond_the_store(&self) -> bool {
        self.outgoing.allows_any() || self.tcp.allows_any() || self.databases.any()
    }
}
