//! A guest: its settings, what it may use, and the release of it that answers, which can be exchanged
//! while requests run. `loading` loads releases, exchanges and tries them.

mod loading;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use tally_state::Handle;
use tokio::sync::Semaphore;

use super::{
    Request, Response,
    account::Account,
    admission::{Admission, Permit},
    call::Call,
    clock,
    failure::{Cause, Failure},
    host::Runtime,
    idempotency::{Budget, InFlight},
    inspection::LoadError,
    limits::Limits,
    loaded::{Handler, Loaded},
    plugin,
    rate::{OverRate, RateLimit},
    release::{Facts, Release, Source},
    standard,
    usage::Usage,
};
use crate::interfaces::{Effects, Settings};

/// A guest that answers requests. Shared by all workers.
pub(crate) struct Guest {
    runtime: Arc<Runtime>,
    settings: Arc<Settings>,
    limits: Limits,
    /// Whether it stays loaded.
    is_kept: bool,
    current: ArcSwap<Release>,
    /// Its own door; another one when a release comes that may have more or fewer instances.
    admission: ArcSwap<Admission>,
    rate: Option<RateLimit>,
    /// Bytes that the bodies of its requests may still take.
    bodies: Semaphore,
    account: &'static Account,
    usage: Arc<Usage>,
    /// Held while a new release is on its way, so that the last one asked for is the last to come.
    deploying: tokio::sync::Mutex<()>,
    /// Held while the current one is being loaded.
    loading: Arc<tokio::sync::Mutex<()>>,
    /// Instances made so far; each gets the next number.
    instances: AtomicU64,
    in_flight: InFlight,
    budget: Budget,
}

/// The release that answers a request, whatever is deployed meanwhile.
pub(crate) struct Chosen(Choice);

enum Choice {
    Loaded(Arc<Loaded>),
    /// It has to be loaded.
    Release(Arc<Release>),
}

impl Chosen {
    /// Whether it wants bodies in full, before it is given a place in the pool.
    pub(crate) fn takes_whole_bodies(&self) -> bool {
        match &self.0 {
            Choice::Loaded(loaded) => matches!(loaded.handler, Handler::Plugin(_)),
            Choice::Release(release) => release.takes_whole_bodies(),
        }
    }
}

impl Guest {
    /// A guest from a file, which is looked at and not loaded. The second part is what is wrong with
    /// it: it is tried again when it is asked for. Blocks on the file.
    pub(crate) fn from_file(
        runtime: &Arc<Runtime>,
        path: PathBuf,
        limits: Limits,
        settings: Settings,
        is_kept: bool,
    ) -> (Self, Option<LoadError>) {
        let source = Source::File(path);
        let looked = source.read().and_then(|bytes| {
            let (inspection, needs) = runtime.look(&bytes, &limits)?;
            Ok((Facts::of(&inspection), needs.pool))
        });
        let (facts, pool, problem) = match looked {
            Ok((facts, pool)) => (Some(facts), Some(pool), None),
            Err(error) => (None, limits.pool, Some(error)),
        };
        let release = Release::new(source, facts);
        if let Some(problem) = &problem {
            release.set_failure(problem);
        }
        (Self::new(runtime, release, pool.unwrap_or(1), limits, settings, is_kept), problem)
    }

    /// A guest from a component's bytes, loaded.
    ///
    /// # Errors
    /// [`LoadError`], which says why it cannot be run.
    #[cfg(feature = "alone")]
    pub(crate) fn from_bytes(
        runtime: &Arc<Runtime>,
        bytes: &[u8],
        limits: Limits,
        settings: Settings,
    ) -> Result<Arc<Self>, LoadError> {
        let (inspection, needs) = runtime.look(bytes, &limits)?;
        let source = Source::Bytes(bytes.to_vec().into());
        let release = Release::new(source, Some(Facts::of(&inspection)));
        let guest = Arc::new(Self::new(runtime, release, needs.pool, limits, settings, true));
        guest.load_now(&guest.release())?;
        Ok(guest)
    }

    fn new(
        runtime: &Arc<Runtime>,
        release: Release,
        pool: usize,
        limits: Limits,
        settings: Settings,
        is_kept: bool,
    ) -> Self {
        Self {
            runtime: Arc::clone(runtime),
            settings: Arc::new(settings),
            is_kept,
            current: ArcSwap::from_pointee(release),
            admission: ArcSwap::from_pointee(Admission::new(pool, limits.waiting, limits.wait)),
            rate: limits.rate.map(RateLimit::new),
            bodies: Semaphore::new(limits.bodies.min(Semaphore::MAX_PERMITS)),
            account: Account::open(limits.weight, runtime.workers),
            usage: Arc::default(),
            deploying: tokio::sync::Mutex::new(()),
            loading: Arc::default(),
            instances: AtomicU64::new(0),
            in_flight: InFlight::default(),
            budget: Budget::new(limits.recordings, limits.window),
            limits,
        }
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
    pub(super) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// What it may use.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Its weight among those that compute.
    pub(crate) fn weight(&self) -> u32 {
        self.limits.weight
    }

    /// The time that it has computed.
    pub(crate) fn account(&self) -> &'static Account {
        self.account
    }

    /// What is counted of it.
    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// Bytes that the bodies of its requests may still take.
    pub(crate) fn bodies(&self) -> &Semaphore {
        &self.bodies
    }

    /// Takes a request, within its rate.
    ///
    /// # Errors
    /// [`OverRate`], which says when there is room for another one.
    pub(crate) fn take_request(&self, now: Instant) -> Result<(), OverRate> {
        self.rate.as_ref().map_or(Ok(()), |rate| rate.take(now))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// The release that new requests are given to.
    pub(crate) fn release(&self) -> Arc<Release> {
        self.current.load_full()
    }

    /// What a new request is answered by. Each request asks once.
    pub(crate) fn choose(&self) -> Chosen {
        let current = self.current.load();
        match current.use_loaded() {
            // The count of references to the release is written by nobody then.
            Some(loaded) => Chosen(Choice::Loaded(loaded)),
            None => Chosen(Choice::Release(Arc::clone(&current))),
        }
    }

    /// Instances that may be at work at once.
    pub(crate) fn pool(&self) -> usize {
        self.admission.load().pool()
    }

    /// Instances at work, of [`Guest::pool`].
    pub(crate) fn in_use(&self) -> usize {
        let loaded = self.current.load().loaded();
        loaded.map_or(0, |loaded| self.admission.load().in_use(&loaded.pool.slots))
    }

    /// Requests waiting for an instance.
    pub(crate) fn waiting(&self) -> usize {
        self.admission.load().waiting()
    }

    /// Answers one request in a fresh instance of a release. When this has failed, the guest is gone and
    /// changes nothing any more.
    ///
    /// # Cancel safety
    /// See [`super::answer()`].
    pub(super) async fn run(
        self: &Arc<Self>,
        chosen: Chosen,
        state: Handle,
        request: Request,
        effects: Effects,
    ) -> Result<Response, Failure> {
        // The one place where a failure learns what is known of its effect.
        let failed = |cause| Failure { cause, applied: effects.applied() };
        let loaded = match chosen.0 {
            Choice::Loaded(loaded) => loaded,
            Choice::Release(release) => match release.use_loaded() {
                Some(loaded) => loaded,
                None => Box::pin(self.load(&release)).await.map_err(failed)?,
            },
        };
        let permit = self.enter(&loaded).await.map_err(failed)?;
        let call = Call {
            guest: Arc::clone(self),
            loaded,
            state,
            effects: effects.clone(),
            instance: self.instances.fetch_add(1, Ordering::Relaxed).saturating_add(1),
            permit,
        };
        let answer = match &call.loaded.handler {
            Handler::Plugin(indices) => plugin::answer(&call, indices, request).await,
            Handler::Http(indices) => {
                let indices = Arc::clone(indices);
                standard::answer(call, indices, request).await
            }
        };
        answer.map_err(failed)
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
        clock::wake();
        Ok(permit)
    }
}
