//! What all guests of a host share: classes of slots, threads that load, and room for loaded code.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, Once, OnceLock, PoisonError, Weak},
    time::Instant,
};

use super::{
    inspection::Inspection,
    limits::Limits,
    load_error::LoadError,
    loaded::Loaded,
    loaders::Loaders,
    pool::Pools,
    release::{Facts, Release},
    swap::SWAPS,
    tenant::Tenant,
    usage::Usage,
};

/// How much less than threads that serve those get that compile.
const NICE: i32 = 10;

/// What guests share.
pub struct Runtime {
    pools: Pools,
    /// Workers that serve requests.
    workers: usize,
    room: Room,
    loaded: Mutex<Vec<Entry>>,
    /// Started when the first guest is loaded.
    loaders: OnceLock<Loaders>,
}

/// How much loaded code there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Guests that are loaded at once.
    pub guests: usize,
    /// Bytes of their compiled code.
    pub bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        // Each takes some mappings of memory, of which Linux lets a process have 65,530, and a
        // mebibyte or more.
        Self { guests: 2_000, bytes: 1 << 30 }
    }
}

/// Instances at once that all guests may have, by what is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instances {
    /// The most that is configured for a guest.
    pub(super) most: usize,
    /// Whether a guest has as many as its class gives.
    pub(super) by_class: bool,
    /// Whether there are several guests, of which none may take all.
    pub(super) several: bool,
}

impl Instances {
    /// By what is configured for each guest.
    pub fn of(pools: impl IntoIterator<Item = Option<usize>>) -> Self {
        let mut instances = Self { most: 0, by_class: false, several: false };
        for (number, pool) in pools.into_iter().enumerate() {
            instances.most = instances.most.max(pool.unwrap_or_default());
            instances.by_class |= pool.is_none();
            instances.several = number > 0;
        }
        instances
    }
}

/// How much there is of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Workers that serve requests.
    pub workers: usize,
    /// Instances at once that guests may have.
    pub instances: Instances,
    /// How much loaded code there may be.
    pub room: Room,
    /// Whether a trap's error has the guest's own stack.
    pub backtraces: bool,
    /// Where the kernel lists swap: `/proc/swaps`, or a file in its place.
    pub swaps: PathBuf,
}

impl Default for Sizes {
    /// For one guest without a server.
    fn default() -> Self {
        let room = Room { guests: 1, ..Room::default() };
        let instances = Instances::of([None]);
        let swaps = SWAPS.into();
        Self { workers: 1, instances, room, backtraces: false, swaps }
    }
}

/// A release that is loaded.
struct Entry {
    release: Weak<Release>,
    usage: Weak<Usage>,
    bytes: usize,
    is_kept: bool,
}

impl Runtime {
    /// What guests share, by how much there is of all.
    #[must_use]
    pub fn new(sizes: Sizes) -> Arc<Self> {
        compile_politely();
        Arc::new(Self {
            workers: sizes.workers,
            room: sizes.room,
            pools: Pools::new(sizes),
            loaded: Mutex::default(),
            loaders: OnceLock::new(),
        })
    }

    /// Workers that serve requests.
    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    /// Looks at a component: what it is, and how many instances of it may be at work at once.
    ///
    /// # Errors
    /// [`LoadError`], when this host cannot run it.
    pub(crate) fn look(&self, bytes: &[u8], limits: &Limits) -> Result<(Facts, usize), LoadError> {
        let inspection = Inspection::of(bytes, limits)?;
        let needs = inspection.needs(limits)?;
        self.pools.plan(needs.class)?;
        Ok((Facts::of(&inspection)?, needs.pool))
    }

    /// Loads a component of a guest. Takes long for a large one, unless it was compiled before, and blocks.
    ///
    /// # Errors
    /// [`LoadError`], when this host cannot run it.
    pub(crate) fn load(
        &self,
        tenant: &Tenant,
        bytes: &[u8],
    ) -> Result<(Facts, Arc<Loaded>), LoadError> {
        let started = Instant::now();
        let loaded = Inspection::of(bytes, tenant.limits()).and_then(|inspection| {
            let loaded = self.compile(&inspection, tenant.limits(), bytes)?;
            for note in loaded.notes() {
                tracing::warn!(guest = %tenant.name(), "{note}");
            }
            Ok((Facts::of(&inspection)?, Arc::new(loaded)))
        });
        tenant.usage().loaded(started.elapsed(), loaded.is_ok());
        loaded
    }

    /// Compiles and links a component. Blocks.
    pub(super) fn compile(
        &self,
        inspection: &Inspection,
        limits: &Limits,
        bytes: &[u8],
    ) -> Result<Loaded, LoadError> {
        let needs = inspection.needs(limits)?;
        Loaded::new(self.pools.of(needs.class)?, inspection, needs, bytes)
    }

    /// Does work that takes a core, on a thread for that. It goes on when nobody waits any more.
    ///
    /// # Errors
    /// [`LoadError::Start`], when there is no such thread, or it panicked.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, LoadError> {
        let (done, result) = tokio::sync::oneshot::channel();
        let run = move || {
            // Whoever wanted it may have gone.
            let _ = done.send(work());
        };
        let loaders = self.loaders.get_or_init(Loaders::start);
        loaders.give(Box::new(run)).map_err(|reason| LoadError::Start(reason.into()))?;
        result.await.map_err(|_| LoadError::Start("loading panicked".into()))
    }

    /// Notes what was loaded, and drops what was not used for longest where there is no more room.
    pub(crate) fn note(
        &self,
        release: &Arc<Release>,
        usage: &Arc<Usage>,
        now_loaded: &Loaded,
        is_kept: bool,
    ) {
        let bytes = now_loaded.bytes;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let this = Arc::downgrade(release);
        loaded.retain(|entry| {
            let is_loaded = entry.release.upgrade().is_some_and(|release| release.is_loaded());
            is_loaded && !entry.release.ptr_eq(&this)
        });
        let mut all: usize = loaded.iter().map(|entry| entry.bytes).sum();
        all = all.saturating_add(bytes);
        while loaded.len() >= self.room.guests || all > self.room.bytes {
            let last_used =
                |entry: &Entry| entry.release.upgrade().map(|release| release.last_used());
            let candidates = loaded.iter().enumerate().filter(|(_, entry)| !entry.is_kept);
            let Some((place, _)) = candidates.min_by_key(|(_, entry)| last_used(entry)) else {
                break;
            };
            let entry = loaded.swap_remove(place);
            all = all.saturating_sub(entry.bytes);
            if let Some(release) = entry.release.upgrade() {
                release.unload();
            }
            if let Some(usage) = entry.usage.upgrade() {
                usage.evicted();
            }
        }
        loaded.push(Entry { release: this, usage: Arc::downgrade(usage), bytes, is_kept });
    }

    /// Looks whether swap was turned on, and has all guests loaded anew if so: in pools that keep no
    /// memory resident. To be called every second or so: this is how long memory may be kept with swap. In
    /// that time a page would have to be written, taken for idle by the kernel, and its slot used again.
    pub(crate) fn look_at_swap(&self) {
        if !self.pools.look_at_swap() {
            return;
        }
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in loaded.drain(..) {
            if let Some(release) = entry.release.upgrade() {
                release.unload();
            }
        }
    }

    /// Whether any guest is at work, also for a release that was replaced since.
    pub(crate) fn is_at_work(&self) -> bool {
        self.pools.are_at_work()
    }

    /// Guests that are loaded, and the bytes of their compiled code.
    pub(crate) fn loaded(&self) -> (usize, usize) {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let is_loaded =
            |entry: &&Entry| entry.release.upgrade().is_some_and(|release| release.is_loaded());
        loaded
            .iter()
            .filter(is_loaded)
            .fold((0, 0), |(guests, bytes), entry| (guests + 1, bytes + entry.bytes))
    }
}

/// Has compiling take what those who serve leave. Wasmtime compiles on the threads that rayon has for
/// the whole process.
fn compile_politely() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let polite = rayon::ThreadPoolBuilder::new()
            .thread_name(|number| format!("compile-{number}"))
            // Where it is refused, compiling takes as much as serving.
            .start_handler(|_| {
                let _ = rustix::process::nice(NICE);
            });
        if let Err(error) = polite.build_global() {
            tracing::debug!(%error, "compiling is not slowed down");
        }
    });
}
