//! Loading releases of a guest when they are asked for, exchanging and trying them.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::HeaderValue;
use tally_state::Handle;

use super::Guest;
use crate::{
    interfaces::{Context, Effects, Worker},
    runtime::{
        admission::Admission,
        call, clock,
        cpu::Meter,
        failure::Cause,
        inspection::{Inspection, LoadError},
        loaded::Loaded,
        memory::Memory,
        release::{Facts, Release, Source},
    },
};

/// Instances a new release is given before it takes requests, so that their slots hold its memory
/// and its code is in the caches.
const WARM_INSTANCES: usize = 8;

/// What became of a new release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deployed {
    pub(crate) version: Arc<str>,
    pub(crate) previous: Arc<str>,
    /// How long it took to compile, link and warm it.
    pub(crate) took: Duration,
}

impl Guest {
    /// The data of a store that no request belongs to.
    fn context(&self, next: &Loaded, state: &Handle) -> Context {
        let worker = Worker { instance: 0, guest_version: Arc::clone(&next.version) };
        let id = HeaderValue::from_static("warm");
        let settings = Arc::clone(&self.settings);
        let meter = Meter::new(self.limits.cpu, self.account);
        let memory = Memory::new(next.needs.memory);
        Context::new(state.clone(), settings, id, worker, Effects::default(), meter, memory)
    }

    /// Loads a release for a request. Requests that come meanwhile wait for the same, as long as they
    /// would for an instance.
    pub(super) async fn load(
        self: &Arc<Self>,
        release: &Arc<Release>,
    ) -> Result<Arc<Loaded>, Cause> {
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
    pub(super) fn load_now(
        self: &Arc<Self>,
        release: &Arc<Release>,
    ) -> Result<Arc<Loaded>, LoadError> {
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
    pub(in crate::runtime) async fn try_start_once(&self, state: &Handle) -> Result<(), LoadError> {
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
