//! Loading releases of a guest when they are asked for, exchanging and trying them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tally_state::Handle;

use super::Guest;
use crate::{
    logging,
    runtime::{Cause, LoadError, Loaded, Release, Source},
};

/// How often a release is loaded for a request: where many guests are asked for by turns and few may be loaded,
/// one can be dropped again before the request that wanted it has run.
const MOST_TRIES: usize = 10;

/// What became of a new release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deployed {
    pub(crate) version: Arc<str>,
    pub(crate) previous: Arc<str>,
    /// How long it took to compile, link and warm it.
    pub(crate) took: Duration,
    /// Notes for whoever deploys it, such as imports that this host does not offer.
    pub(crate) notes: Vec<String>,
}

impl Guest {
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
        self.begin_to_load(release);
        let loaded = async {
            for _ in 0..MOST_TRIES {
                drop(self.loading.lock().await);
                if let Some(loaded) = release.use_loaded() {
                    return Ok(loaded);
                }
                if let Some(cause) = failed() {
                    return Err(cause);
                }
                // Others have wanted its room before this could look.
                self.begin_to_load(release);
            }
            Err(Cause::Loading)
        };
        self.tenant().wait(loaded).await.ok_or(Cause::Loading)?
    }

    /// Has a release be loaded, unless that is under way.
    fn begin_to_load(self: &Arc<Self>, release: &Arc<Release>) {
        if let Ok(held) = Arc::clone(&self.loading).try_lock_owned() {
            let (guest, release) = (Arc::clone(self), Arc::clone(release));
            // Goes on when this request is given up: others wait for it as well.
            tokio::spawn(async move {
                let (runtime, name) = (Arc::clone(&guest.runtime), Arc::clone(guest.name()));
                let load = move || match release.use_loaded() {
                    Some(_) => {}
                    // What became of it is told by the release.
                    None => drop(guest.load_now(&release)),
                };
                if let Err(error) = runtime.work(load).await {
                    logging::log(&logging::Failure {
                        level: tracing::Level::ERROR,
                        what: "a guest could not be loaded",
                        kind: "load",
                        guest: &name,
                        id: "",
                        method: None,
                        reason: &error,
                    });
                }
                drop(held);
            });
        }
    }

    /// Loads a release now. Blocks.
    pub(super) fn load_now(
        self: &Arc<Self>,
        release: &Arc<Release>,
    ) -> Result<Arc<Loaded>, LoadError> {
        let bytes = release.source.read();
        let loaded = bytes.and_then(|bytes| self.runtime.load(self.tenant(), &bytes));
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
        facts.log(self.name());
        // Its file has changed since it was looked at, or can be read only now. Those who wait for what it was
        // get this; it is gone with them.
        release.set_loaded(Arc::clone(&loaded));
        let next = Arc::new(Release::new(release.source.clone(), Some(facts)));
        self.keep(&next, &loaded);
        let (version, previous) = (next.version(), release.version());
        // Unless another was deployed meanwhile.
        let before = self.current.compare_and_swap(release, next);
        if Arc::ptr_eq(&before, release) {
            self.tenant().fit(loaded.instances());
            match release.source {
                Source::Elsewhere(_) => {
                    tracing::info!(guest = %self.name(), %version, "its release was loaded");
                }
                Source::File(_) | Source::Bytes(_) => {
                    tracing::info!(guest = %self.name(), %version, %previous, "its file has changed and was loaded");
                }
            }
        }
        Ok(loaded)
    }

    /// Has a release answer with what was loaded of it.
    fn keep(&self, release: &Arc<Release>, loaded: &Arc<Loaded>) {
        release.set_loaded(Arc::clone(loaded));
        self.runtime.note(release, self.tenant().usage(), loaded, self.is_kept);
    }

    /// Replaces the guest by another release of it, or by another guest altogether. Requests under
    /// way finish on the one before, whose code is freed with the last of them.
    ///
    /// # Errors
    /// [`LoadError`], and then nothing has changed.
    pub(crate) async fn deploy(
        self: &Arc<Self>,
        bytes: Bytes,
        source: Source,
        state: &Handle,
    ) -> Result<Deployed, LoadError> {
        let _turn = self.deploying.lock().await;
        let started = Instant::now();
        let guest = Arc::clone(self);
        let loading = self.runtime.work(move || {
            let (facts, loaded) = guest.runtime.load(guest.tenant(), &bytes)?;
            let notes = [facts.notes(), loaded.notes()].concat();
            facts.log(guest.name());
            Ok((Arc::new(Release::new(source, Some(facts))), loaded, notes))
        });
        let (release, next, notes): (_, Arc<Loaded>, _) = loading.await.flatten()?;
        self.tenant().warm(&next, state).await?;
        self.tenant().fit(next.instances());
        self.keep(&release, &next);
        let version = Arc::clone(next.version());
        let previous = self.current.swap(release).version();
        Ok(Deployed { version, previous, took: started.elapsed(), notes })
    }

    /// Loads a component as a release of this guest would be, and tries it. Nothing changes.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(crate) async fn try_component(
        self: &Arc<Self>,
        bytes: Bytes,
        state: &Handle,
    ) -> Result<Vec<String>, LoadError> {
        let guest = Arc::clone(self);
        let loading = self.runtime.work(move || {
            let (facts, loaded) = guest.runtime.load(guest.tenant(), &bytes)?;
            Ok((loaded.notes(), facts.notes(), loaded))
        });
        let (notes, of_facts, loaded): (_, _, Arc<Loaded>) = loading.await.flatten()?;
        self.tenant().warm(&loaded, state).await?;
        Ok([of_facts, notes].concat())
    }

    /// Has another release answer that is loaded when it is asked for.
    pub(crate) async fn exchange(&self, source: Source) {
        let _turn = self.deploying.lock().await;
        self.current.store(Arc::new(Release::new(source, None)));
    }

    /// Loads the current release, and makes an instance to see that it can start.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(crate) async fn try_start(self: &Arc<Self>, state: &Handle) -> Result<(), LoadError> {
        let (guest, release) = (Arc::clone(self), self.release());
        let loaded = self.runtime.work(move || guest.load_now(&release)).await.flatten()?;
        let started = self.tenant().warm(&loaded, state).await;
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
            Some(loaded) => self.tenant().try_instances(&loaded, state, 1).await,
            None => Err(LoadError::Start("it is not loaded".into())),
        }
    }
}
