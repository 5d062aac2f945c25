//! The slots that instances live in, and the door to them.
//!
//! All versions of a guest whose slots are of one size share a pool, so that a new version under
//! load finds no fewer places than the old one had.

use std::{sync::Arc, time::Duration};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    admission::Admission, engine::Engine, failure::Cause, limits::Limits, profile::Profile,
};

/// A place in a pool, free again when dropped.
pub(super) type Permit = OwnedSemaphorePermit;

/// An engine with its slots.
pub(super) struct Pool {
    pub(super) engine: Engine,
    pub(super) profile: Profile,
    admission: Admission,
}

impl Pool {
    /// Reserves the slots.
    ///
    /// # Errors
    /// When wasmtime cannot have them, most likely for want of address space.
    pub(super) fn new(profile: Profile, limits: &Limits) -> wasmtime::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            engine: Engine::new(&profile)?,
            profile,
            admission: Admission::new(profile.pool, limits.waiting, limits.wait),
        }))
    }

    /// Waits for a place, bounded in number and time.
    pub(super) async fn enter(&self) -> Result<Permit, Cause> {
        self.admission.enter().await
    }

    /// Waits for a place in order of arrival, longer than a request would.
    pub(super) async fn enter_within(&self, longest: Duration) -> Option<Permit> {
        self.admission.enter_within(longest).await
    }

    /// Sends away all who wait, as another pool is to take them.
    pub(super) fn retire(&self) {
        self.admission.close();
    }

    /// A place, if there is one at once and nobody waits.
    pub(super) fn try_enter(&self) -> Option<Permit> {
        self.admission.try_enter()
    }

    /// Instances at work.
    pub(super) fn in_use(&self) -> usize {
        self.admission.in_use()
    }

    /// Requests waiting for an instance.
    pub(super) fn waiting(&self) -> usize {
        self.admission.waiting()
    }
}
