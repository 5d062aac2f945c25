//! A guest: its settings, what it may use, and the release of it that answers, which can be exchanged
//! while requests run.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::HeaderValue;
use tally_state::Handle;
use tokio::sync::Semaphore;

use super::{
    Request, Response,
    account::Account,
    admission::{Admission, Permit},
    call::{self, Call},
    clock,
    cpu::Meter,
    failure::{Cause, Failure},
    host::Runtime,
    idempotency::{self, Budget, InFlight},
    inspection::{Inspection, LoadError},
    limits::Limits,
    loaded::{Handler, Loaded},
    memory::Memory,
    plugin,
    rate::{OverRate, RateLimit},
    release::{Facts, Release, Source},
    standard,
    usage::Usage,
};
use crate::interfaces::{Context, Effects, Settings, Worker};

/// Instances a new release is given before it takes requests, so that their slots hold its memory
/// and its code is in the caches.
const WARM_INSTANCES: usize = 8;

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

/// What became of a new release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deployed {
    pub(crate) version: Arc<str>,
    pub(crate) previous: Arc<str>,
    /// How long it took to compile, link and warm it.
    pub(crate) took: Duration,
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
        let inspection = Inspection::of(bytes)?;
        let pool = inspection.needs(&limits)?.pool;
        let source = Source::Bytes(Bytes::copy_from_slice(bytes));
        let release = Release::new(source, Some(Facts::of(&inspection)));
        let guest = Arc::new(Self::new(runtime, release, pool, limits, settings, true));
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
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn shared_settings(&self) -> &Arc<Settings> {
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

    /// Answers one request in a fresh instance of a release.
    ///
    /// # Errors
    /// [`Failure`], when there is no instance to be had or the guest gives no proper response.
    ///
    /// # Cancel safety
    /// Dropping the future throws the instance away. A state operation that it was waiting for is
    /// withdrawn if it was not sent yet.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        chosen: Chosen,
        state: Handle,
        request: Request,
    ) -> Result<Response, Failure> {
        if idempotency::applies(&request.method, &request.headers) {
            // In a box, as it would double the size of every request's future, and few have a key.
            return Box::pin(idempotency::answer(self, chosen, state, request)).await;
        }
        self.run(chosen, state, request, Effects::default()).await
    }

    /// Answers one request. When this has failed, the guest is gone and changes nothing any more.
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

    /// The data of a store that no request belongs to.
    fn context(&self, next: &Loaded, state: &Handle) -> Context {
        let worker = Worker { instance: 0, guest_version: Arc::clone(&next.version) };
        let id = HeaderValue::from_static("warm");
        let settings = Arc::clone(&self.settings);
        let meter = Meter::new(self.limits.cpu, self.account);
        let memory = Memory::new(next.needs.memory);
        Context::new(state.clone(), settings, id, worker, Effects::default(), meter, memory)
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

    /// Loads a release for a request. Requests that come meanwhile wait for the same, as long as they
    /// would for an instance.
    async fn load(self: &Arc<Self>, release: &Arc<Release>) -> Result<Arc<Loaded>, Cause> {
        let failed =
            || release.failed_just_now().map(|reason| Cause::Unavailable(reason.to_string()));
        if let Some(cause) = failed() {
            return Err(cause);
        }
        if let Ok(held) = Arc::clone(&self.loading).try_lock_owned() {
            let (guest, release) = (Arc::clone(self), Arc::clone(release));
            // Goes on when this request is given up: others wait for it as well.
            tokio::spawn(async move {
                let runtime = Arc::clone(&guest.runtime);
                let load = move || match release.use_loaded() {
                    Some(_) => {}
                    // What became of it is told by the release.
                    None => drop(guest.load_now(&release)),
                };
                if let Err(error) = runtime.work(load).await {
                    tracing::error!(%error, "a guest could not be loaded");
                }
                drop(held);
            });
        }
        let loaded = async {
            drop(self.loading.lock().await);
            match release.use_loaded() {
                Some(loaded) => Ok(loaded),
                None => Err(failed().unwrap_or(Cause::Loading)),
            }
        };
        self.admission.load_full().wait(loaded).await.ok_or(Cause::Loading)?
    }

    /// Loads a release now. Blocks.
    fn load_now(self: &Arc<Self>, release: &Arc<Release>) -> Result<Arc<Loaded>, LoadError> {
        let started = Instant::now();
        let loaded = release.source.read().and_then(|bytes| {
            let inspection = Inspection::of(&bytes)?;
            let loaded = self.runtime.load(&inspection, &self.limits, &bytes)?;
            Ok((Facts::of(&inspection), Arc::new(loaded)))
        });
        self.usage.loaded(started.elapsed(), loaded.is_ok());
        let (facts, loaded) = loaded.inspect_err(|error| {
            if release.failure().is_none() {
                tracing::error!(guest = %self.name(), "the guest cannot be loaded: {error}");
            }
            release.set_failure(error);
        })?;
        if release.is_of(&facts) {
            self.keep(release, &loaded);
            return Ok(loaded);
        }
        // Its file has changed since it was looked at, or can be read only now. Those who wait for what it was
        // get this; it is gone with them.
        release.set_loaded(Arc::clone(&loaded));
        let next = Arc::new(Release::new(release.source.clone(), Some(facts)));
        self.keep(&next, &loaded);
        let (version, previous) = (next.version(), release.version());
        // Unless another was deployed meanwhile.
        let before = self.current.compare_and_swap(release, next);
        if Arc::ptr_eq(&before, release) {
            self.fit(loaded.needs.pool);
            tracing::info!(guest = %self.name(), %version, %previous, "its file has changed and was loaded");
        }
        Ok(loaded)
    }

    /// Has a release answer with what was loaded of it.
    fn keep(&self, release: &Arc<Release>, loaded: &Arc<Loaded>) {
        release.set_loaded(Arc::clone(loaded));
        self.runtime.note(release, &self.usage, loaded.bytes, self.is_kept);
    }

    /// Has so many instances be at work at once.
    fn fit(&self, pool: usize) {
        if self.admission.load().pool() != pool {
            let admission = Admission::new(pool, self.limits.waiting, self.limits.wait);
            self.admission.store(Arc::new(admission));
        }
    }

    /// Replaces the guest by another release of it, or by another guest altogether. Requests under
    /// way finish on the one before, whose code is freed with the last of them.
    ///
    /// # Errors
    /// [`LoadError`], and then nothing has changed.
    pub(crate) async fn deploy(
        self: &Arc<Self>,
        bytes: Vec<u8>,
        file: Option<PathBuf>,
        state: Handle,
    ) -> Result<Deployed, LoadError> {
        let _turn = self.deploying.lock().await;
        let started = Instant::now();
        let guest = Arc::clone(self);
        let loading = self.runtime.work(move || {
            let bytes = Bytes::from(bytes);
            let inspection = Inspection::of(&bytes)?;
            let loading = Instant::now();
            let loaded = guest.runtime.load(&inspection, &guest.limits, &bytes);
            guest.usage.loaded(loading.elapsed(), loaded.is_ok());
            let source = file.map_or(Source::Bytes(bytes), Source::File);
            Ok((Arc::new(Release::new(source, Some(Facts::of(&inspection)))), Arc::new(loaded?)))
        });
        let (release, next) = loading.await.flatten()?;
        self.warm(&next, &state).await?;
        self.fit(next.needs.pool);
        self.keep(&release, &next);
        let version = Arc::clone(&next.version);
        let previous = self.current.swap(release).version();
        Ok(Deployed { version, previous, took: started.elapsed() })
    }

    /// Loads the current release, and makes an instance to see that it can start.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(crate) async fn try_start(self: &Arc<Self>, state: &Handle) -> Result<(), LoadError> {
        let (guest, release) = (Arc::clone(self), self.release());
        let loaded = self.runtime.work(move || guest.load_now(&release)).await.flatten()?;
        let started = self.warm(&loaded, state).await;
        started.inspect_err(|error| {
            let release = self.release();
            release.unload();
            release.set_failure(error);
        })
    }

    /// Makes one instance and throws it away.
    #[cfg(feature = "alone")]
    pub(super) async fn try_start_once(&self, state: &Handle) -> Result<(), LoadError> {
        match self.release().use_loaded() {
            Some(loaded) => self.try_instances(&loaded, state, 1).await,
            None => Err(LoadError::Start("it is not loaded".into())),
        }
    }

    /// Makes some instances of a release and throws them away: one at least, however long it takes
    /// to get a place for it.
    async fn warm(&self, next: &Loaded, state: &Handle) -> Result<(), LoadError> {
        self.try_instances(next, state, WARM_INSTANCES.min(next.needs.pool)).await
    }

    /// Makes so many instances at once and throws them away.
    async fn try_instances(
        &self,
        next: &Loaded,
        state: &Handle,
        count: usize,
    ) -> Result<(), LoadError> {
        // The guest's own places are for requests.
        let slots = &next.pool.slots;
        let mut kept = Vec::new();
        for _ in 0..count {
            let slot = match kept.is_empty() {
                // The requests that are under way have ended by then.
                true => {
                    let longest = self.limits.wall.saturating_add(self.limits.wait);
                    let entering = slots.enter(std::ptr::from_ref(self).addr());
                    tokio::time::timeout(longest, entering).await.map_err(|_| {
                        LoadError::Start("no place in the pool was free to try it".into())
                    })?
                }
                // Requests have the first claim to the others.
                false => match slots.try_enter() {
                    Some(slot) => slot,
                    None => break,
                },
            };
            clock::wake();
            let instantiating = async {
                let mut store = call::store(next, self.context(next, state));
                next.pre.instantiate_async(&mut store).await?;
                Ok(store)
            };
            match call::within(self, instantiating).await {
                Ok(store) => kept.push((store, slot)),
                Err(cause) => return Err(LoadError::Start(cause.to_string())),
            }
        }
        Ok(())
    }
}
