//! Guests from files: at the start, and again whenever a file changes.

use std::{
    collections::HashSet,
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tally_state::Handle;

use super::ServerError;
use crate::{
    config::GuestConfig,
    edge::Routes,
    interfaces::Settings,
    runtime::{Guest, LoadError},
};

/// When the start says that it is compiling: small guests are done by then.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often it says so again.
const REMINDER: Duration = Duration::from_secs(3);

/// How often files are looked at: soon enough after a build, and next to nothing for the system.
const LOOK: Duration = Duration::from_millis(300);

/// Reads a guest's file.
///
/// # Errors
/// [`ServerError::GuestFile`].
pub fn read_guest(path: &Path) -> Result<Vec<u8>, ServerError> {
    std::fs::read(path).map_err(|reason| ServerError::GuestFile { path: path.to_owned(), reason })
}

/// Loads a guest, and says what takes so long while it does.
pub(super) async fn load(config: &GuestConfig, state: &Handle) -> Result<Arc<Guest>, ServerError> {
    let path = &config.file;
    let bytes = read_guest(path)?;
    let mebibytes = bytes.len().div_ceil(1 << 20);
    let settings = Settings {
        name: config.name.as_str().into(),
        buckets: config.buckets.clone(),
        environment: config.env.clone().into_iter().collect(),
        variables: config.settings.clone().into_iter().collect(),
        outgoing: config.outgoing.clone(),
    };
    let limits = config.limits.clone();
    let started = Instant::now();
    let mut loading = tokio::task::spawn_blocking(move || Guest::load(&bytes, limits, settings));
    let mut patience = PATIENCE;
    let loaded = loop {
        tokio::select! {
            loaded = &mut loading => break loaded,
            () = tokio::time::sleep(patience) => {
                patience = REMINDER;
                tracing::info!(
                    "compiling {} ({mebibytes} MiB), for {} s so far; the next start finds it compiled",
                    path.display(),
                    started.elapsed().as_secs(),
                );
            }
        }
    };
    match loaded {
        Ok(Ok(guest)) => match guest.try_start(state).await {
            Ok(()) => Ok(Arc::new(guest)),
            Err(reason) => Err(ServerError::Guest { path: path.clone(), reason }),
        },
        Ok(Err(reason)) => Err(ServerError::Guest { path: path.clone(), reason }),
        Err(panic) => {
            let reason = LoadError::Start(panic.to_string());
            Err(ServerError::Guest { path: path.clone(), reason })
        }
    }
}

/// How often a host tells the store how much it has recorded, and learns what others have.
const ACCOUNTING: Duration = Duration::from_secs(1);

/// The part of a limit on records at which the log warns.
const NEARLY_FULL: u64 = 80;

/// Tells the store what this host has recorded since the last account.
pub(super) async fn account_once(routes: &Routes, state: &Handle) {
    for (_, guest) in routes.iter() {
        if let Err(error) = guest.report_records(state).await {
            tracing::debug!(guest = %guest.name(), %error, "records could not be accounted for");
        }
    }
}

/// Keeps account of what is recorded of each guest's requests, until dropped.
pub(super) async fn account(routes: Arc<Routes>, state: Handle) {
    let mut warned = HashSet::new();
    loop {
        tokio::time::sleep(ACCOUNTING).await;
        for (_, guest) in routes.iter() {
            let budget = guest.budget();
            if let Err(error) = guest.report_records(&state).await {
                tracing::debug!(guest = %guest.name(), %error, "records could not be accounted for");
                continue;
            }
            let (used, limits) = (budget.used(), budget.limits());
            let percent =
                |used: u64, limit: u64| used.saturating_mul(100).checked_div(limit).unwrap_or(100);
            let most = percent(used.records, limits.records).max(percent(used.bytes, limits.bytes));
            if most < NEARLY_FULL {
                warned.remove(guest.name());
            } else if warned.insert(Arc::clone(guest.name())) {
                tracing::warn!(
                    guest = %guest.name(), records = used.records, bytes = used.bytes,
                    "records of requests with an Idempotency-Key are at {most} % of their limit, at which such requests are refused; raise idempotency-records or idempotency-bytes, or shorten idempotency-window"
                );
            }
        }
    }
}

/// A file as it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    modified: SystemTime,
    bytes: u64,
    /// A file that was renamed to this name is another, whatever it says of itself.
    inode: u64,
}

/// What a file is now, if it is one.
pub(super) fn look(path: &Path) -> Option<Seen> {
    // Anything else, such as a pipe, could be waited for without end.
    let metadata = std::fs::metadata(path).ok().filter(Metadata::is_file)?;
    let (modified, bytes, inode) = (metadata.modified().ok()?, metadata.len(), metadata.ino());
    Some(Seen { modified, bytes, inode })
}

/// Does something with files. They may be on a disk that hangs, which must stop nothing else.
async fn with_files<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// A file that is watched.
struct Watched {
    path: PathBuf,
    name: String,
    /// What was loaded last, or could not be.
    loaded: Option<Seen>,
    /// What it was the last time it was looked at: a file that is still being written changes.
    last: Option<Seen>,
}

/// Loads guests again when their files change, until dropped. One that cannot be loaded is
/// reported, and the version before goes on.
///
/// Files are looked at rather than waited for, which works on every file system and through
/// whatever renames a build does.
///
/// `guests` come with what their files were before they were loaded.
pub(super) async fn watch(
    guests: Vec<(GuestConfig, Option<Seen>)>,
    routes: Arc<Routes>,
    state: Handle,
) {
    let mut files: Vec<Watched> = guests
        .into_iter()
        .map(|(guest, seen)| Watched {
            path: guest.file,
            name: guest.name,
            loaded: seen,
            last: seen,
        })
        .collect();
    loop {
        tokio::time::sleep(LOOK).await;
        for file in &mut files {
            let path = file.path.clone();
            let Some(seen) = with_files(move || look(&path)).await else { continue };
            let settled = seen == file.last;
            file.last = seen;
            if seen.is_none() || seen == file.loaded || !settled {
                continue;
            }
            file.loaded = seen;
            let Some(guest) = routes.named(&file.name) else { continue };
            let path = file.path.display();
            let source = file.path.clone();
            let bytes = match with_files(move || std::fs::read(source)).await {
                None => continue,
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => {
                    tracing::error!(%error, "{path} has changed and cannot be read; the version before goes on");
                    continue;
                }
            };
            match guest.deploy(bytes, state.clone()).await {
                Ok(done) if done.version == done.previous => {}
                Ok(done) => tracing::info!(
                    guest = file.name, version = %done.version, previous = %done.previous,
                    "{path} has changed and is loaded"
                ),
                Err(error) => tracing::error!(
                    "{path} has changed and cannot be loaded; the version before goes on: {error}"
                ),
            }
        }
    }
}
