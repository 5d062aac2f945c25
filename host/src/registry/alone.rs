//! A guest without a server in front of it, for measurements.

use http::{HeaderMap, HeaderValue, Method, Uri, header};
use tally_state::{Handle, State};

use std::sync::Arc;

use super::Guest;
use crate::{
    interfaces::{Buckets, Settings},
    runtime::{Body, Instances, Limits, LoadError, Request, Runtime, Sizes},
};

/// A guest that is called from here, with the bucket `default`.
pub struct Alone {
    guest: Arc<Guest>,
    state: Handle,
}

impl Alone {
    /// Compiles a component, for a pool of two instances. Must be called within a Tokio runtime, on
    /// which the store may have a lane.
    ///
    /// # Errors
    /// [`LoadError`], which says why it cannot be run.
    pub fn load(component: &[u8], state: &State) -> Result<Self, LoadError> {
        let buckets = Buckets::parse(["default"]).map_err(|e| LoadError::Start(e.to_string()))?;
        let settings = Settings { name: "alone".into(), buckets, ..Settings::default() };
        let limits = Limits { pool: Some(2), ..Limits::default() };
        let runtime =
            Runtime::new(Sizes { instances: Instances::of([limits.pool]), ..Sizes::default() });
        let guest = Guest::from_bytes(&runtime, component, limits, settings)?;
        Ok(Self { guest, state: state.worker() })
    }

    /// Makes an instance and drops it.
    ///
    /// # Errors
    /// [`LoadError`], when it does not start.
    pub async fn instantiate(&self) -> Result<(), LoadError> {
        self.guest.try_start_once(&self.state).await
    }

    /// Answers a request in a fresh instance. Gives the status, or what went wrong.
    ///
    /// # Errors
    /// A failure's text.
    pub async fn answer(&self, method: Method, uri: &'static str) -> Result<u16, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
        let request = Request {
            id: HeaderValue::from_static("alone"),
            method,
            uri: Uri::from_static(uri),
            tls: false,
            headers,
            body: Body::Whole(bytes::Bytes::new()),
            body_timeout: std::time::Duration::ZERO,
        };
        let chosen = self.guest.choose();
        match self.guest.answer(chosen, self.state.clone(), request).await {
            Ok(response) => Ok(response.status.as_u16()),
            Err(failure) => Err(failure.cause.to_string()),
        }
    }
}
