//! Running guests: one fresh instance for one request, out of a bounded pool.
//!
//! The way of a request through here: `admission` gives it a place or refuses it, the current
//! `deployment` (a loaded guest) makes an instance, `plugin` calls it within its `limits`, and a
//! [`Failure`] says what went wrong in the terms of the edge, which decides status codes. `engine`
//! holds wasmtime's settings, `cpu` counts the time a guest computes.
//!
//! This room knows no sockets and no HTTP protocol, only its vocabulary of requests and responses.

mod admission;
mod cpu;
mod deployment;
mod engine;
mod failure;
mod limits;
mod plugin;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use tally_state::Handle;

pub(crate) use self::cpu::Meter;
use self::{admission::Admission, deployment::Deployment, engine::Engine};
pub use self::{
    deployment::{Inspection, LoadError, inspect},
    failure::{Cause, Failure},
    limits::Limits,
};
use crate::interfaces::Buckets;

/// A request whose head and body have arrived in full.
pub(crate) struct Request {
    pub(crate) method: Method,
    /// The target in origin form.
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A response of a guest, checked: safe to send as it is.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The pool of instances, and the guest it runs. Shared by all workers.
pub(crate) struct Runtime {
    /// Keeps the ticks of the clock by which guests are interrupted.
    _engine: Engine,
    deployment: ArcSwap<Deployment>,
    admission: Admission,
    buckets: Arc<Buckets>,
    limits: Limits,
    /// Instances made so far; each gets the next number.
    instances: AtomicU64,
}

impl Runtime {
    /// Sets up the engine and loads a guest.
    ///
    /// # Errors
    /// [`LoadError`], which says why the guest cannot be run.
    pub(crate) fn new(guest: &[u8], limits: Limits, buckets: Buckets) -> Result<Self, LoadError> {
        let engine = Engine::new(&limits).map_err(LoadError::Engine)?;
        let deployment = Deployment::load(&engine, guest)?;
        Ok(Self {
            _engine: engine,
            deployment: ArcSwap::from_pointee(deployment),
            admission: Admission::new(limits.pool, limits.waiting, limits.wait),
            buckets: Arc::new(buckets),
            limits,
            instances: AtomicU64::new(0),
        })
    }

    /// The version of the guest that new requests are given to.
    pub(crate) fn guest_version(&self) -> Arc<str> {
        Arc::clone(&self.deployment.load().version)
    }

    /// Instances at work, of [`Limits::pool`].
    pub(crate) fn in_use(&self) -> usize {
        self.admission.in_use()
    }

    /// Requests waiting for an instance, of [`Limits::waiting`].
    pub(crate) fn waiting(&self) -> usize {
        self.admission.waiting()
    }

    /// Answers one request in a fresh instance.
    ///
    /// # Errors
    /// [`Failure`], when there is no instance to be had or the guest gives no proper response.
    ///
    /// # Cancel safety
    /// Dropping the future throws the instance away. A state operation that it was waiting for is
    /// withdrawn if it was not sent yet.
    pub(crate) async fn handle(
        &self,
        state: Handle,
        request: Request,
    ) -> Result<Response, Failure> {
        let _permit = self.admission.enter().await?;
        let deployment = self.deployment.load_full();
        let instance = self.instances.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let buckets = Arc::clone(&self.buckets);
        plugin::call(&deployment, &self.limits, state, buckets, instance, request).await
    }
}
