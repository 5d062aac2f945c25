//! Guests from files: at the start, and again whenever a file changes.

use std::{
    collections::HashSet,
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tally_state::Handle;

use super::ServerError;
use crate::{
    config::{Config, GuestConfig},
    registry::{Guest, Pattern, Table},
    runtime::{LoadError, Runtime, Source},
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
    std::fs::read(path).map_err(|reason| ServerError::GuestFile {
        path: path.to_owned(),
        reason: reason.to_string(),
    })
}

/// A guest, and what keeps it from being served.
type Looked = (Arc<Guest>, Option<LoadError>);

/// Looks at the files of guests, on all cores, without loading them.
async fn look_at(
    configs: &[GuestConfig],
    runtime: &Arc<Runtime>,
) -> Result<Vec<Looked>, ServerError> {
    let (configs, runtime) = (configs.to_vec(), Arc::clone(runtime));
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let looking = tokio::task::spawn_blocking(move || {
        let part = configs.len().div_ceil(cores).max(1);
        std::thread::scope(|scope| {
            let look = |configs: &[GuestConfig]| {
                configs.iter().map(|config| look_at_one(config, &runtime)).collect::<Vec<_>>()
            };
            let parts: Vec<_> =
                configs.chunks(part).map(|configs| scope.spawn(move || look(configs))).collect();
            parts.into_iter().map(|part| part.join().ok()).collect::<Option<Vec<_>>>()
        })
    });
    let looked = looking.await.ok().flatten();
    let looked = looked.ok_or_else(|| ServerError::Ended("looking at guests".into()))?;
    Ok(looked.into_iter().flatten().collect())
}

fn look_at_one(config: &GuestConfig, runtime: &Arc<Runtime>) -> Looked {
    let settings = config.for_guest();
    settings.files.check(&settings.name);
    let (path, limits) = (config.file.clone(), config.limits.clone());
    let (guest, problem) = Guest::from_file(runtime, path, limits, settings, config.keep_loaded);
    (Arc::new(guest), problem)
}

/// Finds out which guests of the file there are, and loads some of them. What is wrong with one keeps no other from
/// being served, unless that is asked for or there is no other.
///
/// # Errors
/// [`ServerError`], of the first guest that cannot be served.
pub(super) async fn prepare(
    config: &Config,
    guests: &[GuestConfig],
    has_others: bool,
    runtime: &Arc<Runtime>,
    state: &Handle,
) -> Result<Vec<(Pattern, Arc<Guest>)>, ServerError> {
    let looked = look_at(guests, runtime).await?;
    let (mut routes, mut first, mut served) = (Vec::new(), None, 0_usize);
    for (number, (config_of, (guest, mut problem))) in guests.iter().zip(looked).enumerate() {
        if problem.is_none() && (config_of.keep_loaded || number < config.load_ahead) {
            problem = load(config_of, &guest, state).await.err();
        }
        match problem {
            None => served = served.saturating_add(1),
            Some(problem) => {
                let error = explain(config_of, problem);
                if config.strict {
                    return Err(error);
                }
                tracing::error!(guest = config_of.name, "it is not served: {error}");
                first.get_or_insert(error);
            }
        }
        routes.push((config_of.pattern.clone(), guest));
    }
    match first {
        Some(error) if served == 0 && !has_others => Err(error),
        _ => Ok(routes),
    }
}

fn explain(config: &GuestConfig, reason: LoadError) -> ServerError {
    let path = config.file.clone();
    match reason {
        LoadError::File { path, reason } => ServerError::GuestFile { path, reason },
        reason => ServerError::Guest { path, reason },
    }
}

/// Loads a guest, and says what takes so long while it does.
async fn load(config: &GuestConfig, guest: &Arc<Guest>, state: &Handle) -> Result<(), LoadError> {
    let started = Instant::now();
    let mut loading = pin!(guest.try_start(state));
    let mut patience = PATIENCE;
    loop {
        tokio::select! {
            loaded = &mut loading => return loaded,
            () = tokio::time::sleep(patience) => {
                patience = REMINDER;
                tracing::info!(
                    "compiling {}, for {} s so far; the next start finds it compiled",
                    config.file.display(),
                    started.elapsed().as_secs(),
                );
            }
        }
    }
}

/// How often a host tells the store how much it has recorded, and learns what others have.
const ACCOUNTING: Duration = Duration::from_secs(1);

/// The part of a limit on records at which the log warns.
const NEARLY_FULL: u64 = 80;

/// Tells the store what this host has recorded since the last account.
pub(super) async fn account_once(routes: &Table, state: &Handle) {
    for (_, guest) in routes.routes().iter() {
        if let Err(error) = guest.report_records(state).await {
            tracing::debug!(guest = %guest.name(), %error, "records could not be accounted for");
        }
    }
}

/// Keeps account of what is recorded of each guest's requests, until dropped.
pub(super) async fn account(routes: Arc<Table>, state: Handle) {
    let mut warned = HashSet::new();
    loop {
        tokio::time::sleep(ACCOUNTING).await;
        for (_, guest) in routes.routes().iter() {
            let budget = guest.idempotency().budget();
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
    routes: Arc<Table>,
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
            let routes = routes.routes();
            // One that was deployed is no longer what the file says.
            let Some(guest) = routes.named(&file.name).filter(|guest| guest.is_from_file()) else {
                continue;
            };
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
            match guest.deploy(bytes.into(), Source::File(file.path.clone()), &state).await {
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
