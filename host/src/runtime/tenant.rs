//! What one guest may use, and what is counted of it: the same for all releases of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use tally_state::{Handle, Owner};
use tokio::sync::Semaphore;

use super::{
    Request, Response,
    account::Account,
    admission::{Admission, Permit},
    call::Call,
    clock,
    failure::Cause,
    limits::Limits,
    loaded::Loaded,
    rate::{OverRate, RateLimit},
    usage::Usage,
};
use crate::interfaces::{Effects, Settings};

/// A guest as the runtime knows it. Shared by all workers.
pub(crate) struct Tenant {
    pub(super) settings: Arc<Settings>,
    pub(super) limits: Limits,
    /// Its own door; another one when a release comes that may have more or fewer instances.
    admission: ArcSwap<Admission>,
    rate: Option<RateLimit>,
    /// Bytes that the bodies of its requests may still take.
    bodies: Semaphore,
    account: &'static Account,
    usage: Arc<Usage>,
    /// Whose its operations are in the queues in front of the store.
    owner: Owner,
    /// Bytes of its responses that wait for their clients.
    responses: AtomicUsize,
    /// Instances made so far; each gets the next number.
    instances: AtomicU64,
}

impl Tenant {
    /// A guest that may have so many instances at work at once, on a host with so many workers.
    /// What was counted of the guest `before` it goes on.
    pub(crate) fn new(
        limits: Limits,
        settings: Settings,
        pool: usize,
        workers: usize,
        before: Option<&Self>,
    ) -> Self {
        let account = match before {
            Some(before) if before.limits.weight == limits.weight => before.account,
            _ => Account::open(limits.weight, workers),
        };
        Self {
            settings: Arc::new(settings),
            admission: ArcSwap::from_pointee(Admission::new(pool, limits.waiting, limits.wait)),
            rate: limits.rate.map(RateLimit::new),
            bodies: Semaphore::new(limits.bodies.min(Semaphore::MAX_PERMITS)),
            account,
            usage: before.map(|before| Arc::clone(&before.usage)).unwrap_or_default(),
            owner: Owner::another(),
            responses: AtomicUsize::new(0),
            instances: AtomicU64::new(0),
            limits,
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// What is configured for it.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it may use.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The time that it has computed.
    pub(crate) fn account(&self) -> &'static Account {
        self.account
    }

    /// What is counted of it.
    pub(crate) fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// Bytes that the bodies of its requests may still take.
    pub(crate) fn bodies(&self) -> &Semaphore {
        &self.bodies
    }

    /// Whose its operations are in the queues in front of the store.
    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// Bytes of its responses that wait for their clients, as the edge counts them.
    pub(crate) fn responses(&self) -> &AtomicUsize {
        &self.responses
    }

    /// Takes a request, within its rate.
    ///
    /// # Errors
    /// [`OverRate`], which says when there is room for another one.
    pub(crate) fn take_request(&self, now: Instant) -> Result<(), OverRate> {
        self.rate.as_ref().map_or(Ok(()), |rate| rate.take(now))
    }

    /// Has so many instances be at work at once.
    pub(crate) fn fit(&self, pool: usize) {
        if self.pool() != pool {
            let admission = Admission::new(pool, self.limits.waiting, self.limits.wait);
            self.admission.store(Arc::new(admission));
        }
    }

    /// Instances that may be at work at once.
    pub(crate) fn pool(&self) -> usize {
        self.admission.load().pool()
    }

    /// Instances at work of what is loaded, of [`Tenant::pool`].
    pub(crate) fn in_use(&self, loaded: &Loaded) -> usize {
        self.admission.load().in_use(&loaded.pool.slots)
    }

    /// Requests waiting for an instance, or for a release to be loaded.
    pub(crate) fn waiting(&self) -> usize {
        self.admission.load().waiting()
    }

    /// Places that its instances may hold while they wait for a client.
    pub(crate) fn for_slow_clients(&self) -> Arc<Semaphore> {
        Arc::clone(self.admission.load().for_slow_clients())
    }

    /// Waits for something, as long and with as many others as for an instance. `None` when there are more,
    /// or it takes longer.
    pub(crate) async fn wait<T>(&self, event: impl Future<Output = T>) -> Option<T> {
        self.admission.load_full().wait(event).await
    }

    /// Answers one request in a fresh instance. When this has failed, the instance is gone and changes
    /// nothing any more.
    ///
    /// # Errors
    /// [`Cause`], when there is no instance to be had or the guest gives no proper response.
    ///
    /// # Cancel safety
    /// Dropping the future throws the instance away. A state operation that it was waiting for is
    /// withdrawn if it was not sent yet.
    pub(crate) async fn answer(
        self: &Arc<Self>,
        loaded: Arc<Loaded>,
        state: Handle,
        request: Request,
        effects: Effects,
    ) -> Result<Response, Cause> {
        let permit = self.enter(&loaded).await?;
        let handler = Arc::clone(&loaded.handler);
        let instance = self.instances.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let tenant = Arc::clone(self);
        let call = Call { tenant, loaded, state, effects, instance, permit };
        handler.answer(call, request).await
    }

    /// A place for an instance: at once, or when one is had.
    async fn enter(&self, loaded: &Loaded) -> Result<Permit, Cause> {
        let slots = &loaded.pool.slots;
        // Most often a place is free, and then the door need not be held on to.
        let permit = self.admission.load().try_enter(slots);
        let permit = match permit {
            Some(permit) => permit,
            None => self.admission.load_full().enter(slots).await?,
        };
        // Only for those who waited while it was retired.
        if loaded.is_retired() {
            return Err(Cause::Loading);
        }
        clock::wake();
        Ok(permit)
    }
}
