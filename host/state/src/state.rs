//! Opening a backend, and the queues in front of it.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::{
    Bucket, Handle,
    backend::{self, Description, Lanes, Opened, Role, memory::Memory},
    error::{Error, OpenError},
    health::Part,
    lane::{Lane, Owner},
    metrics::Metrics,
    operation::{Kind, Step},
    plan::Reply,
    sweep,
};

/// Limits of the state layer, with the reason for each default.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest time a batch may take, and longest time an operation may wait in the queue. Five
    /// seconds outlast a failover of most stores and end well before a client gives up.
    pub timeout: Duration,
    /// Longest time to establish a connection, authentication included. One second is a dozen
    /// round trips to a store on another continent.
    pub connect_timeout: Duration,
    /// Operations that may wait in one lane. More than a host's whole pool asks for at once.
    pub queue_operations: usize,
    /// Bytes of values that may wait in one lane: bounds memory when the store is slow.
    pub queue_bytes: usize,
    /// Largest value, in bytes. Values travel through a guest's memory, which is small.
    pub max_value_bytes: usize,
    /// Keys one call may name: each waits in the queue by itself.
    pub max_keys: usize,
    /// How long the writes of a [`Scope`](crate::Scope) are recorded, at least. A day is what clients of
    /// such interfaces are used to, and long enough for one that was offline.
    pub idempotency_window: Duration,
    /// How often what has expired is removed, where the backend does not do so by itself. It is
    /// missing at once; this is about its room.
    pub sweep_every: Duration,
    /// Records of writes after which SQLite begins another run of them, which is at most 6 MiB by default. Fewer
    /// make more runs, which are all looked through for each write; for more, pages are written for fewer
    /// records each.
    pub run_records: u64,
    /// Whether the store is only read: writes are refused, nothing is created, and no lock that a
    /// writer has is waited for.
    pub read_only: bool,
    /// Whether a server that is away is taken for one that was prepared before, and connected to when it is back.
    /// What is only found out by asking it is not known then.
    pub may_be_away: bool,
    /// Buckets that are going to be written. Where a store has rights for each key, they are checked
    /// at the start and with the store's health.
    pub buckets: Vec<Bucket>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            queue_operations: 16_384,
            queue_bytes: 64 << 20,
            max_value_bytes: 1 << 20,
            max_keys: 1_000,
            idempotency_window: Duration::from_secs(24 * 60 * 60),
            sweep_every: Duration::from_secs(10),
            run_records: 1 << 17,
            read_only: false,
            may_be_away: false,
            buckets: Vec::new(),
        }
    }
}

/// An open backend. Cheap to clone; the backend is closed when all clones and handles are gone.
#[derive(Clone)]
pub struct State(Arc<Inner>);

pub(crate) struct Inner {
    backend: Opened,
    description: Description,
    options: Options,
    metrics: Metrics,
    /// Lanes on threads of their own, shared by all workers; `None` where each worker has its own, or
    /// there are none.
    shared: Option<Arc<Queues>>,
    /// The lanes there are, by their names.
    lanes: Mutex<Vec<(String, Weak<Lane>)>>,
}

impl State {
    /// Opens the backend a URL names: `sqlite:PATH`, `memory:`, `redis://…`, `redis-sentinel://…`,
    /// `rediss://…`, `rediss-sentinel://…`, `postgres://…`. Creates what the backend needs (a file,
    /// a table) and checks that it answers.
    ///
    /// # Errors
    /// [`OpenError`], with a text that says what to do, when the URL is none of these or the
    /// backend cannot be reached.
    pub async fn open(url: &str, options: Options, metrics: Metrics) -> Result<Self, OpenError> {
        let (backend, description) = backend::open(url, &options).await?;
        let lanes = Mutex::default();
        let shared = match backend.lanes() {
            Lanes::Direct | Lanes::PerWorker => None,
            Lanes::Threads { writers, readers, sweepers } => {
                let start = |role: Role, number: usize, count: usize| {
                    let lane = Lane::new(role, options.clone(), metrics.clone());
                    backend.run_on_thread(Arc::clone(&lane))?;
                    let name = match count {
                        1 => role.name().to_owned(),
                        _ => format!("{} {}", role.name(), number.saturating_add(1)),
                    };
                    register(&lanes, name, &lane);
                    Ok(lane)
                };
                let start =
                    |role, count| (0..count).map(|number| start(role, number, count)).collect();
                let writers: Result<Vec<_>, OpenError> = start(Role::Write, writers);
                let readers: Result<Vec<_>, OpenError> = start(Role::Read, readers);
                let sweepers: Result<Vec<_>, OpenError> = start(Role::Sweep, sweepers);
                Some(Arc::new(Queues::of(writers?, readers?, sweepers?, options.read_only)))
            }
        };
        let sweeps = backend.wants_sweeping() && !options.read_only;
        let every = options.sweep_every;
        let inner = Arc::new(Inner { backend, description, options, metrics, shared, lanes });
        if sweeps {
            sweep::start(&inner, every);
        }
        Ok(Self(inner))
    }

    pub(crate) fn of(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    /// What this backend is and what it guarantees, for people.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.0.description
    }

    /// A handle for the worker that calls this. Must be called within a Tokio runtime that runs
    /// for as long as the handle is used: some backends put the worker's own lane there.
    #[must_use]
    pub fn worker(&self) -> Handle {
        let inner = &self.0;
        let queues = inner.shared.clone().unwrap_or_else(|| {
            if let Opened::Memory(memory) = &inner.backend {
                return Arc::new(Queues::Direct(memory.clone(), inner.metrics.clone()));
            }
            let lane = Lane::new(Role::Write, inner.options.clone(), inner.metrics.clone());
            inner.backend.spawn_on_worker(Arc::clone(&lane));
            let name = std::thread::current().name().unwrap_or("a thread").to_owned();
            register(&inner.lanes, name, &lane);
            Arc::new(Queues::of(vec![lane], Vec::new(), Vec::new(), inner.options.read_only))
        });
        Handle::new(queues, inner.options.clone())
    }

    /// Whether operations would succeed, by the parts that they need: each connection to the store that
    /// is in use. Costs the store no more than one small check of each idle connection a second, however
    /// often it is asked for. Waits a second at most.
    pub async fn health(&self) -> Vec<Part> {
        let lanes: Vec<(String, Arc<Lane>)> = {
            let mut lanes = self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            lanes.retain(|(_, lane)| lane.strong_count() > 0);
            lanes.iter().filter_map(|(name, lane)| Some((name.clone(), lane.upgrade()?))).collect()
        };
        join_all(lanes.into_iter().map(|(name, lane)| async move {
            let failure = lane.health().await.err().map(|error| match error {
                Error::NotApplied(reason) | Error::Unknown(reason) => reason.to_string(),
                Error::Rejected(rejection) => rejection.to_string(),
            });
            Part { name, is_needed: lane.role() != Role::Sweep, failure }
        }))
        .await
    }
}

fn register(lanes: &Mutex<Vec<(String, Weak<Lane>)>>, name: String, lane: &Arc<Lane>) {
    let mut lanes = lanes.lock().unwrap_or_else(PoisonError::into_inner);
    lanes.retain(|(_, lane)| lane.strong_count() > 0);
    lanes.push((name, Arc::downgrade(lane)));
}

/// The queues one handle sends to. Closes them when the last handle is gone.
pub(crate) enum Queues {
    /// There are none: each step is applied as it is asked for.
    Direct(Memory, Metrics),
    Lanes(Queued),
}

/// A step that was asked for.
pub(crate) enum Asked {
    Answered(Reply),
    /// Where its answer arrives.
    Queued(oneshot::Receiver<Reply>),
}

/// Lanes, and what spreads steps over them.
pub(crate) struct Queued {
    writers: Vec<Arc<Lane>>,
    /// Lanes for reads alone; where there are none, reads go with the writes.
    readers: Vec<Arc<Lane>>,
    /// Lanes for sweeping; where there are none, that goes with the writes as well.
    sweepers: Vec<Arc<Lane>>,
    /// Spreads keys over the lanes.
    hasher: RandomState,
    read_only: bool,
}

impl Queues {
    fn of(
        writers: Vec<Arc<Lane>>,
        readers: Vec<Arc<Lane>>,
        sweepers: Vec<Arc<Lane>>,
        read_only: bool,
    ) -> Self {
        let hasher = RandomState::new();
        Self::Lanes(Queued { writers, readers, sweepers, hasher, read_only })
    }

    /// Puts an operation of an owner into its queue, or applies it where there is none. One that is put there quietly
    /// may stay until [`Queues::tell`].
    pub(crate) fn push(&self, owner: Owner, step: Step, quietly: bool) -> Result<Asked, Error> {
        match self {
            Self::Direct(memory, metrics) => {
                // No batch is counted, as there is none.
                let kind = step.action.kind();
                let reply = memory.apply_one(step);
                metrics.answered(kind, &reply);
                Ok(Asked::Answered(reply))
            }
            Self::Lanes(lanes) => lanes.push(owner, step, quietly).map(Asked::Queued),
        }
    }

    /// Tells of what was put into queues quietly.
    pub(crate) fn tell(&self) {
        if let Self::Lanes(lanes) = self {
            lanes.all().for_each(|lane| lane.tell());
        }
    }
}

impl Queued {
    fn all(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.writers.iter().chain(&self.readers).chain(&self.sweepers)
    }

    fn push(
        &self,
        owner: Owner,
        step: Step,
        quietly: bool,
    ) -> Result<oneshot::Receiver<Reply>, Error> {
        if self.read_only && !step.action.kind().is_read() {
            return Err(Error::not_applied("the store was opened to be read only"));
        }
        let own = match step.action.kind() {
            Kind::Sweep => &self.sweepers,
            kind if kind.is_read() => &self.readers,
            _ => &self.writers,
        };
        let lanes = if own.is_empty() { &self.writers } else { own };
        let index = match lanes.len() {
            0 | 1 => 0,
            count => {
                let hash = self.hasher.hash_one((&step.bucket, &step.key));
                usize::try_from(hash.checked_rem(count as u64).unwrap_or(0)).unwrap_or(0)
            }
        };
        match lanes.get(index) {
            Some(lane) => lane.push(owner, step, quietly),
            None => Err(Error::not_applied("the store has no lanes")),
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.all().for_each(|lane| lane.close());
    }
}
