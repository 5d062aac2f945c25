//! A release of a guest: its component, and what of it is loaded.
//!
//! Loaded code is dropped when it has not been used for longest and others want the room; the next
//! request loads it again.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;

use super::{
    clock,
    inspection::{Inspection, calling_fails},
    load_error::LoadError,
    loaded::Loaded,
    worlds::World,
};

/// How long a failure to load is remembered: requests that come meanwhile do not try again.
const REMEMBERED: Duration = Duration::from_secs(1);

/// Where a component is.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    File(PathBuf),
    /// It is here.
    #[cfg_attr(not(feature = "alone"), expect(dead_code, reason = "for measurements"))]
    Bytes(Bytes),
    /// Somewhere else, from where it is read each time.
    Elsewhere(Arc<dyn Fetch>),
}

/// Reads a component.
pub(crate) trait Fetch: fmt::Debug + Send + Sync {
    /// The version of the component: the first digits of its digest.
    fn version(&self) -> Arc<str>;

    /// Its bytes. Blocks, and is not called on a thread that serves.
    ///
    /// # Errors
    /// Why they cannot be had.
    fn fetch(&self) -> Result<Bytes, String>;
}

impl Source {
    /// Its bytes. Blocks on the file, or the store.
    pub(crate) fn read(&self) -> Result<Bytes, LoadError> {
        match self {
            Self::File(path) => std::fs::read(path).map(Bytes::from).map_err(|reason| {
                LoadError::File { path: path.clone(), reason: reason.to_string() }
            }),
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::Elsewhere(component) => component.fetch().map_err(LoadError::Fetch),
        }
    }
}

/// What is known of a component before it is loaded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    pub(super) version: Arc<str>,
    pub(super) world: &'static dyn World,
    /// It came as a core module.
    is_module: bool,
    /// What it imports and this host does not offer.
    missing: Arc<[String]>,
    /// Whether it imports an interface of Spin's.
    pub(super) imports_spin: bool,
}

impl Facts {
    /// # Errors
    /// [`LoadError`], when this host cannot run it.
    pub(super) fn of(inspection: &Inspection) -> Result<Self, LoadError> {
        Ok(Self {
            version: Arc::clone(&inspection.version),
            world: inspection.world()?,
            is_module: inspection.is_module(),
            missing: inspection.missing().into_iter().map(str::to_owned).collect(),
            imports_spin: inspection.imports_spin(),
        })
    }

    /// Notes for the log and for the answer to a deployment.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.is_module {
            notes.push("the guest is a core module of WASI preview 1; the host turns it into a component when it loads it".into());
        }
        if !self.missing.is_empty() {
            notes.push(format!(
                "the guest runs; {}, because this host does not offer it; `tally check` says what would help, and strict-imports refuses such guests",
                calling_fails(&self.missing)
            ));
        }
        notes
    }

    /// Logs the notes.
    pub(crate) fn log(&self, guest: &str) {
        for note in self.notes() {
            match self.missing.is_empty() {
                true => tracing::info!(%guest, "{note}"),
                false => tracing::warn!(%guest, "{note}"),
            }
        }
    }
}

/// A release of a guest.
pub(crate) struct Release {
    pub(crate) source: Source,
    /// `None` for one that could not be read when the host started, or has not been read yet.
    facts: Option<Facts>,
    loaded: ArcSwapOption<Loaded>,
    /// When it was last used, in ticks of the clock.
    used: AtomicU64,
    failure: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Release {
    pub(crate) fn new(source: Source, facts: Option<Facts>) -> Self {
        Self {
            source,
            facts,
            loaded: ArcSwapOption::empty(),
            used: AtomicU64::new(0),
            failure: Mutex::default(),
        }
    }

    /// The first digits of its digest.
    pub(crate) fn version(&self) -> Arc<str> {
        match (&self.facts, &self.source) {
            (Some(facts), _) => Arc::clone(&facts.version),
            (None, Source::Elsewhere(component)) => component.version(),
            (None, _) => "unknown".into(),
        }
    }

    /// Whether it is the release that this is known of.
    pub(crate) fn is_of(&self, facts: &Facts) -> bool {
        self.facts.as_ref() == Some(facts)
    }

    /// The world of its component, if it is known.
    pub(crate) fn world(&self) -> Option<&'static dyn World> {
        self.facts.as_ref().map(|facts| facts.world)
    }

    /// Whether it wants bodies in full, before it is given a place in the pool.
    pub(crate) fn takes_whole_bodies(&self) -> bool {
        self.world().is_none_or(World::takes_whole_bodies)
    }

    /// Whether it imports an interface of Spin's.
    pub(crate) fn imports_spin(&self) -> bool {
        self.facts.as_ref().is_some_and(|facts| facts.imports_spin)
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.load().is_some()
    }

    /// What is loaded of it.
    pub(crate) fn loaded(&self) -> Option<Arc<Loaded>> {
        self.loaded.load_full()
    }

    /// What is loaded of it, to be used now.
    pub(crate) fn use_loaded(&self) -> Option<Arc<Loaded>> {
        let loaded = self.loaded.load();
        let loaded = loaded.as_ref().filter(|loaded| !loaded.is_retired())?;
        let now = clock::now();
        // Read by all workers, so it is not written each time.
        if self.used.load(Relaxed) != now {
            self.used.store(now, Relaxed);
        }
        Some(Arc::clone(loaded))
    }

    pub(crate) fn last_used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    pub(crate) fn set_loaded(&self, loaded: Arc<Loaded>) {
        self.used.store(clock::now(), Relaxed);
        self.loaded.store(Some(loaded));
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Drops what is loaded. Requests under way keep it until they end.
    pub(crate) fn unload(&self) {
        self.loaded.store(None);
    }

    pub(crate) fn set_failure(&self, reason: &LoadError) {
        let failure = (Instant::now(), reason.to_string().into());
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    /// Why it could not be loaded, the last time it was tried.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().map(|(_, reason)| Arc::clone(reason))
    }

    /// The same, if that was just now.
    pub(crate) fn failed_just_now(&self) -> Option<Arc<str>> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, reason) = failure.as_ref()?;
        (when.elapsed() < REMEMBERED).then(|| Arc::clone(reason))
    }
}
