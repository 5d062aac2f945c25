//! Runs the cases on one store, each in buckets of its own.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tally_state::{Bucket, Handle, Metrics, Options, State};

/// What runs a case.
pub(crate) type Case = fn(Bench) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Cases by name.
pub(crate) type Cases = Vec<(&'static str, Case)>;

/// Where the backend under test keeps its data.
#[derive(Clone)]
pub(crate) enum Store {
    Memory,
    /// A folder for its files.
    Sqlite(PathBuf),
    /// The server's URL.
    Redis(String),
    /// The URL of a database whose user may create others.
    Postgres(String),
}

impl Store {
    fn url(&self) -> String {
        match self {
            Self::Memory => "memory:".into(),
            Self::Sqlite(dir) => format!("sqlite:{}", dir.join("tally.db").display()),
            Self::Redis(url) | Self::Postgres(url) => url.clone(),
        }
    }

    /// The URL of an empty place that nobody has opened yet.
    async fn fresh(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        match self {
            Self::Memory => self.url(),
            Self::Sqlite(dir) => {
                format!("sqlite:{}", dir.join(format!("fresh-{number}.db")).display())
            }
            // Redis has sixteen databases.
            Self::Redis(url) => format!("{url}/{}", 1 + number % 15),
            Self::Postgres(url) => {
                let (client, connection) =
                    tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
                let connection = tokio::spawn(connection);
                let name = format!("fresh_{number}");
                client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
                drop(client);
                connection.await.unwrap().unwrap();
                url.replace("/test_db", &format!("/{name}"))
            }
        }
    }
}

/// What a case works with.
pub(crate) struct Bench {
    store: Store,
    case: &'static str,
    pub(crate) state: State,
    pub(crate) handle: Handle,
    /// A bucket of the case's own.
    pub(crate) bucket: Bucket,
}

impl Bench {
    /// Another bucket that no other case uses.
    pub(crate) fn bucket(&self, name: &str) -> Bucket {
        Bucket::new(&format!("{}-{name}", self.case)).unwrap()
    }

    /// The store opened once more, as another host would.
    pub(crate) async fn open(&self) -> State {
        open(&self.store.url()).await
    }

    /// See [`Store::fresh`].
    pub(crate) async fn fresh(&self) -> String {
        self.store.fresh().await
    }

    /// The URL of the server, for another program.
    pub(crate) fn url(&self) -> String {
        self.store.url()
    }

    /// The name of the backend.
    pub(crate) fn backend(&self) -> &'static str {
        self.state.description().backend
    }
}

/// Options under which a slow machine fails no case.
pub(crate) fn options() -> Options {
    Options {
        timeout: std::time::Duration::from_secs(60),
        connect_timeout: std::time::Duration::from_secs(30),
        ..Options::default()
    }
}

pub(crate) async fn open(url: &str) -> State {
    State::open(url, options(), Metrics::default()).await.unwrap()
}

/// Runs every case, and fails with the names of those that failed.
pub(crate) fn run(store: &Store, cases: Cases) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let total = cases.len();
    let failed = runtime.block_on(async {
        let state = open(&store.url()).await;
        let mut failed = Vec::new();
        for (case, start) in cases {
            let bench = Bench {
                store: store.clone(),
                case,
                handle: state.worker(),
                state: state.clone(),
                bucket: Bucket::new(case).unwrap(),
            };
            // As a task, so that a panic ends this case alone.
            if let Err(error) = tokio::spawn(start(bench)).await {
                failed.push(format!("{case}: {error}"));
            }
        }
        failed
    });
    assert!(
        failed.is_empty(),
        "{} of {total} cases failed on {}:\n{}",
        failed.len(),
        store.url(),
        failed.join("\n")
    );
}

/// Runs a future on each of several workers' handles, all at once, and gives their results.
pub(crate) async fn at_once<T, F>(
    state: &State,
    workers: usize,
    run: impl Fn(usize, Handle) -> F,
) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(tokio::sync::Barrier::new(workers));
    let running: Vec<_> = (0..workers)
        .map(|worker| {
            let (start, work) = (Arc::clone(&start), run(worker, state.worker()));
            tokio::spawn(async move {
                start.wait().await;
                work.await
            })
        })
        .collect();
    let mut results = Vec::with_capacity(workers);
    for task in running {
        results.push(task.await.unwrap());
    }
    results
}
