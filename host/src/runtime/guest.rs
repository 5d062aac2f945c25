//! A guest: its settings, and the version of it that runs, which can be swapped while requests do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tally_state::Handle;

use super::{
    Request, Response,
    call::{self, Call},
    cpu::Meter,
    deployment::{Deployment, Handler},
    failure::{Cause, Failure},
    idempotency::{self, Budget, InFlight},
    inspection::{Inspection, LoadError, World},
    limits::Limits,
    plugin,
    pool::{Permit, Pool},
    standard,
};
use crate::interfaces::{Context, Effects, Settings, Worker};

/// Instances a new version is given before it takes requests, so that their slots hold its memory
/// and its code is in the caches.
const WARM_INSTANCES: usize = 8;

/// A guest that answers requests. Shared by all workers.
pub(crate) struct Guest {
    settings: Arc<Settings>,
    limits: Arc<Limits>,
    current: ArcSwap<Deployment>,
    /// Held while a new version is on its way, so that the last one asked for is the last to come.
    deploying: tokio::sync::Mutex<()>,
    /// Instances made so far; each gets the next number.
    instances: AtomicU64,
    in_flight: InFlight,
    budget: Budget,
}

/// What became of a new version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deployed {
    pub(crate) version: Arc<str>,
    pub(crate) previous: Arc<str>,
    /// How long it took to compile, link and warm it.
    pub(crate) took: Duration,
}

impl Guest {
    /// Loads the first version of a guest. Takes long for a large one, unless it was compiled
    /// before.
    ///
    /// # Errors
    /// [`LoadError`], which says why it cannot be run.
    pub(crate) fn load(
        bytes: &[u8],
        limits: Limits,
        settings: Settings,
    ) -> Result<Self, LoadError> {
        let inspection = Inspection::of(bytes)?;
        let pool = Pool::new(inspection.profile(&limits)?, &limits).map_err(LoadError::Engine)?;
        let budget = Budget::new(limits.recordings, limits.window);
        Ok(Self {
            settings: Arc::new(settings),
            limits: Arc::new(limits),
            current: ArcSwap::from_pointee(Deployment::load(&pool, &inspection, bytes)?),
            deploying: tokio::sync::Mutex::new(()),
            instances: AtomicU64::new(0),
            in_flight: InFlight::default(),
            budget,
        })
    }

    /// Its requests with an `Idempotency-Key` that are in flight.
    pub(super) fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// What is recorded of its requests with an `Idempotency-Key`, and how much may be.
    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Adds what this host has recorded of its requests to the store's account, which is that of the
    /// bucket it opens by default: services that share no bucket share no budget.
    ///
    /// # Errors
    /// See [`tally_state::Error`].
    pub(crate) async fn report_records(&self, state: &Handle) -> Result<(), tally_state::Error> {
        let bucket = self.settings.buckets.stored().next();
        let account = bucket.map_or(&*self.settings.name, |bucket| bucket.as_str());
        self.budget.report(account, state).await
    }

    /// What is configured for it.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its name, which is its route's.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// The version that new requests are given to.
    pub(crate) fn version(&self) -> Arc<str> {
        Arc::clone(&self.current.load().version)
    }

    /// Its world.
    pub(crate) fn world(&self) -> World {
        self.current.load().world()
    }

    /// Whether it wants bodies in full, before it is given a place in the pool.
    pub(crate) fn takes_whole_bodies(&self) -> bool {
        self.world() == World::Plugin
    }

    /// Instances that may be at work at once.
    pub(crate) fn pool(&self) -> usize {
        self.current.load().pool.profile.pool
    }

    /// Instances at work, of [`Guest::pool`].
    pub(crate) fn in_use(&self) -> usize {
        self.current.load().pool.in_use()
    }

    /// Requests waiting for an instance.
    pub(crate) fn waiting(&self) -> usize {
        self.current.load().pool.waiting()
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
        if idempotency::applies(&request.method, &request.headers) {
            // In a box, as it would double the size of every request's future, and few have a key.
            return Box::pin(idempotency::answer(self, state, request)).await;
        }
        self.run(state, request, Effects::default()).await
    }

    /// Answers one request. When this has failed, the guest is gone and changes nothing any more.
    pub(super) async fn run(
        &self,
        state: Handle,
        request: Request,
        effects: Effects,
    ) -> Result<Response, Failure> {
        // The one place where a failure learns what is known of its effect.
        let failed = |cause| Failure { cause, applied: effects.applied() };
        let (deployment, permit) = self.enter().await.map_err(failed)?;
        let call = Call {
            deployment,
            limits: Arc::clone(&self.limits),
            settings: Arc::clone(&self.settings),
            state,
            effects: effects.clone(),
            instance: self.instances.fetch_add(1, Ordering::Relaxed).saturating_add(1),
            permit,
        };
        let answer = match &call.deployment.handler {
            Handler::Plugin(indices) => plugin::answer(&call, indices, request).await,
            Handler::Http(indices) => {
                let indices = Arc::clone(indices);
                standard::answer(call, indices, request).await
            }
        };
        answer.map_err(failed)
    }

    /// The data of a store that no request belongs to.
    fn context(&self, next: &Deployment, state: &Handle) -> Context {
        let worker = Worker { instance: 0, guest_version: Arc::clone(&next.version) };
        let id = HeaderValue::from_static("warm");
        let (settings, meter) = (Arc::clone(&self.settings), Meter::new(self.limits.cpu));
        Context::new(state.clone(), settings, id, worker, Effects::default(), meter, 0)
    }

    /// A place in the pool of the version that is current: at once, or when the place is had.
    async fn enter(&self) -> Result<(Arc<Deployment>, Permit), Cause> {
        {
            // Most often a place is free, and then the pool need not be held on to: its count of
            // references is written by all workers.
            let current = self.current.load();
            if let Some(permit) = current.pool.try_enter() {
                return Ok((Arc::clone(&current), permit));
            }
        }
        loop {
            let pool = Arc::clone(&self.current.load().pool);
            let entered = pool.enter().await;
            let deployment = self.current.load_full();
            // A version with slots of another size has another pool; whoever waited for the old one
            // goes on there.
            if Arc::ptr_eq(&deployment.pool, &pool) {
                return Ok((deployment, entered?));
            }
        }
    }

    /// Replaces the guest by another version of it, or by another guest altogether. Requests under
    /// way finish on the old version, whose code is freed with the last of them.
    ///
    /// # Errors
    /// [`LoadError`], and then nothing has changed.
    pub(crate) async fn deploy(
        self: &Arc<Self>,
        bytes: Vec<u8>,
        state: Handle,
    ) -> Result<Deployed, LoadError> {
        let _turn = self.deploying.lock().await;
        let started = Instant::now();
        let guest = Arc::clone(self);
        // Compiling takes every core it is given, and is no work for a thread that serves.
        let loading = tokio::task::spawn_blocking(move || guest.load_next(&bytes));
        let next = loading.await.map_err(|error| LoadError::Start(error.to_string()))??;
        self.warm(&next, &state).await?;
        let version = Arc::clone(&next.version);
        let pool = Arc::clone(&next.pool);
        let before = self.current.swap(Arc::new(next));
        if !Arc::ptr_eq(&before.pool, &pool) {
            before.pool.retire();
        }
        let previous = Arc::clone(&before.version);
        Ok(Deployed { version, previous, took: started.elapsed() })
    }

    fn load_next(&self, bytes: &[u8]) -> Result<Deployment, LoadError> {
        let inspection = Inspection::of(bytes)?;
        let profile = inspection.profile(&self.limits)?;
        let current = Arc::clone(&self.current.load().pool);
        let pool = match current.profile == profile {
            true => current,
            false => Pool::new(profile, &self.limits).map_err(LoadError::Engine)?,
        };
        Deployment::load(&pool, &inspection, bytes)
    }

    /// Makes an instance, to see that the guest can start.
    ///
    /// # Errors
    /// [`LoadError::Start`].
    pub(crate) async fn try_start(&self, state: &Handle) -> Result<(), LoadError> {
        self.warm(&self.current.load_full(), state).await
    }

    /// Makes one instance and throws it away.
    #[cfg(feature = "alone")]
    pub(super) async fn try_start_once(&self, state: &Handle) -> Result<(), LoadError> {
        self.try_instances(&self.current.load_full(), state, 1).await
    }

    /// Makes some instances of a version and throws them away: one at least, however long it takes
    /// to get a place for it.
    async fn warm(&self, next: &Deployment, state: &Handle) -> Result<(), LoadError> {
        self.try_instances(next, state, WARM_INSTANCES.min(next.pool.profile.pool)).await
    }

    /// Makes so many instances at once and throws them away.
    async fn try_instances(
        &self,
        next: &Deployment,
        state: &Handle,
        count: usize,
    ) -> Result<(), LoadError> {
        let mut kept = Vec::new();
        for _ in 0..count {
            let permit = match kept.is_empty() {
                // The requests that are under way have ended by then.
                true => {
                    let longest = self.limits.wall.saturating_add(self.limits.wait);
                    next.pool.enter_within(longest).await.ok_or_else(|| {
                        LoadError::Start("no place in the pool was free to try it".into())
                    })?
                }
                // Requests have the first claim to the others.
                false => match next.pool.try_enter() {
                    Some(permit) => permit,
                    None => break,
                },
            };
            let instantiating = async {
                let mut store = call::store(next, self.context(next, state));
                next.pre.instantiate_async(&mut store).await?;
                Ok(store)
            };
            match call::within(&self.limits, instantiating).await {
                Ok(store) => kept.push((store, permit)),
                Err(cause) => return Err(LoadError::Start(cause.to_string())),
            }
        }
        Ok(())
    }
}
