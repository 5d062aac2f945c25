//! A guest: what it may use, and the release of it that answers, which can be exchanged while requests
//! run.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use tally_state::Handle;

use super::idempotency::{self, Layer};
use crate::{
    interfaces::{Effects, Settings},
    runtime::{
        Cause, Failure, Fetch, Limits, LoadError, Loaded, Release, Request, Response, Runtime,
        Source, Tenant,
    },
};

/// A guest that answers requests. Shared by all workers.
pub(crate) struct Guest {
    pub(super) runtime: Arc<Runtime>,
    tenant: Arc<Tenant>,
    /// Whether it stays loaded.
    pub(super) is_kept: bool,
    pub(super) current: ArcSwap<Release>,
    /// Held while a new release is on its way, so that the last one asked for is the last to come.
    pub(super) deploying: tokio::sync::Mutex<()>,
    /// Held while the current one is being loaded.
    pub(super) loading: Arc<tokio::sync::Mutex<()>>,
    idempotency: Layer,
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
            Choice::Loaded(loaded) => loaded.takes_whole_bodies(),
            Choice::Release(release) => release.takes_whole_bodies(),
        }
    }

    /// Whether it imports an interface of Spin's.
    pub(crate) fn imports_spin(&self) -> bool {
        match &self.0 {
            Choice::Loaded(loaded) => loaded.imports_spin(),
            Choice::Release(release) => release.imports_spin(),
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
        let looked = source.read().and_then(|bytes| runtime.look(&bytes, &limits));
        let (facts, pool, problem) = match looked {
            Ok((facts, pool)) => {
                facts.log(&settings.name);
                (Some(facts), Some(pool), None)
            }
            Err(error) => (None, limits.pool, Some(error)),
        };
        let release = Release::new(source, facts);
        if let Some(problem) = &problem {
            release.set_failure(problem);
        }
        (Self::new(runtime, release, pool.unwrap_or(1), limits, settings, is_kept, None), problem)
    }

    /// A guest whose component is elsewhere, and is read when it is loaded. It may take the place of another guest of
    /// its name, and what was counted of that one goes on.
    pub(crate) fn from_elsewhere(
        runtime: &Arc<Runtime>,
        component: Arc<dyn Fetch>,
        limits: Limits,
        settings: Settings,
        is_kept: bool,
        before: Option<&Self>,
    ) -> Arc<Self> {
        let release = Release::new(Source::Elsewhere(component), None);
        let pool = limits.pool.unwrap_or(1);
        let mut settings = settings;
        if let Some(before) = before {
            // Metrics know a guest by this very text.
            settings.name = Arc::clone(before.name());
        }
        let before = before.map(|before| &*before.tenant);
        Arc::new(Self::new(runtime, release, pool, limits, settings, is_kept, before))
    }

    /// A guest from a component's bytes, loaded.
    ///
    /// # Errors
    /// [`LoadError`], which says why it cannot be run.
    #[cfg(feature = "alone")]
    pub(super) fn from_bytes(
        runtime: &Arc<Runtime>,
        bytes: &[u8],
        limits: Limits,
        settings: Settings,
    ) -> Result<Arc<Self>, LoadError> {
        let (facts, pool) = runtime.look(bytes, &limits)?;
        let release = Release::new(Source::Bytes(bytes.to_vec().into()), Some(facts));
        let guest = Arc::new(Self::new(runtime, release, pool, limits, settings, true, None));
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
        before: Option<&Tenant>,
    ) -> Self {
        let tenant = Tenant::new(limits.clone(), settings, pool, runtime.workers(), before);
        Self {
            runtime: Arc::clone(runtime),
            is_kept,
            current: ArcSwap::from_pointee(release),
            deploying: tokio::sync::Mutex::new(()),
            loading: Arc::default(),
            idempotency: Layer::new(limits.recordings, limits.window),
            tenant: Arc::new(tenant),
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> &Arc<str> {
        self.tenant.name()
    }

    /// What it may use, and what is counted of it.
    pub(crate) fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    /// Its requests with an `Idempotency-Key`.
    pub(crate) fn idempotency(&self) -> &Layer {
        &self.idempotency
    }

    /// Adds what this host has recorded of its requests with an `Idempotency-Key` to the store's account.
    ///
    /// # Errors
    /// See [`tally_state::Error`].
    pub(crate) async fn report_records(&self, state: &Handle) -> Result<(), tally_state::Error> {
        self.idempotency.report(self.tenant.settings(), state).await
    }

    /// Whether what answers is from a file, and was not deployed.
    pub(crate) fn is_from_file(&self) -> bool {
        matches!(self.current.load().source, Source::File(_))
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

    /// Instances at work, of those that may be.
    pub(crate) fn in_use(&self) -> usize {
        let loaded = self.current.load().loaded();
        loaded.map_or(0, |loaded| self.tenant.in_use(&loaded))
    }

    /// Answers one request in a fresh instance of a release, and makes it once if it has an
    /// `Idempotency-Key`.
    ///
    /// # Errors
    /// [`Failure`], when there is no instance to be had or the guest gives no proper response.
    ///
    /// # Cancel safety
    /// See [`Tenant::answer`].
    pub(crate) async fn answer(
        self: &Arc<Self>,
        chosen: Chosen,
        state: Handle,
        request: Request,
    ) -> Result<Response, Failure> {
        let state = state.of(self.tenant.owner());
        if !idempotency::applies(&request.method, &request.headers) {
            return self.run(chosen, state, request, Effects::default()).await;
        }
        let run = |state, request, effects| self.run(chosen, state, request, effects);
        let answering = self.idempotency.answer(self.tenant.settings(), state, request, run);
        // In a box, as it would double the size of every request's future, and few have a key.
        Box::pin(answering).await
    }

    async fn run(
        self: &Arc<Self>,
        chosen: Chosen,
        state: Handle,
        request: Request,
        effects: Effects,
    ) -> Result<Response, Failure> {
        let answering = async {
            let loaded = match chosen.0 {
                Choice::Loaded(loaded) if !loaded.is_retired() => loaded,
                // Retired while its body was read.
                Choice::Loaded(_) => Box::pin(self.load(&self.release())).await?,
                Choice::Release(release) => match release.use_loaded() {
                    Some(loaded) => loaded,
                    None => Box::pin(self.load(&release)).await?,
                },
            };
            self.tenant.answer(loaded, state, request, effects.clone()).await
        };
        let answer: Result<Response, Cause> = answering.await;
        // The one place where a failure learns what is known of its effect.
        answer.map_err(|cause| Failure { cause, applied: effects.applied() })
    }
}
