//! Starting the rooms in order, saying what is served where, and stopping them again.

mod certificates;
mod guests;
mod listen;
mod orphans;
mod signals;
mod store;
mod upkeep;

use std::{
    collections::HashSet,
    fmt::{self, Write as _},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus::Registry;
use tally_state::{OpenError, State};

pub use self::{certificates::TlsError, guests::read_guest, signals::Signals};
use self::{
    guests::{account, account_once, look, prepare, watch},
    listen::{At, Place, SocketFile, listen, listen_for_each},
    signals::reload_on,
    upkeep::upkeep,
};
use crate::{
    admin::{
        Admin, Gate, is_loopback,
        token::{self, Kept, Named, TokenError},
    },
    config::{Config, GuestConfig, ListenAddress},
    edge::{self, Listening, Protocol, Tls, Workers, WorkersError},
    logging::{self, Logs},
    registry::{Guest, Pattern, Routes, Table},
    releases::{Found, Releases, Store},
    runtime::{Instances, LoadError, Runtime, Sizes, World},
};

/// How often it is looked whether guests are done.
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// Routes that are told of at the start.
const MOST_TOLD: usize = 20;

/// How long idle connections of HTTP/1 stay open for a last request once the host stops, as long as there is
/// time: longer than a request takes that is on its way.
const GRACE: Duration = Duration::from_secs(1);

/// Longest time to tell the store at the end what was recorded since it was last told.
const LAST_ACCOUNT: Duration = Duration::from_millis(500);

/// Why the server does not start or does not end well. The text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no guest to serve.
    #[error(
        "no guest given: tally serve GUEST.wasm, or guest = \"GUEST.wasm\" in tally.toml; `just build-guest` builds one; --start-empty begins without, and serves what is deployed"
    )]
    NoGuest,
    /// The guest's file cannot be read.
    #[error("cannot read the guest {}: {reason}", path.display())]
    GuestFile {
        /// Its path.
        path: PathBuf,
        /// What the operating system says.
        reason: String,
    },
    /// The guest cannot be run.
    #[error("{}: {reason}", path.display())]
    Guest {
        /// Its path.
        path: PathBuf,
        /// Why not.
        reason: LoadError,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The token of the admin listener cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Others can reach the admin listener, and could deploy.
    #[error(
        "other machines can reach the admin listener at {address}, and it has no token; {advice}, or listen on loopback alone with --admin 127.0.0.1:{port}",
        advice = token::ADVICE,
        port = address.port(),
    )]
    NoToken {
        /// Its address.
        address: SocketAddr,
    },
    /// An address cannot be listened at.
    #[error("cannot listen at {address}: {reason}; {advice}")]
    Listen {
        /// The address.
        address: String,
        /// What the operating system says.
        reason: io::Error,
        /// What to do about it.
        advice: String,
    },
    /// A file of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The machine lacks something basic.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// Clients would be sent to a port that there is not.
    #[error(
        "redirect-listen: TLS is served at no port, only in the file system; say the port with --redirect-to"
    )]
    NowhereToRedirect,
    /// The machine lacks something basic.
    #[error("cannot watch for signals: {0}")]
    Signals(#[source] io::Error),
    /// Two metrics have one name, which is a bug.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// A part of the process ended by itself, which is a bug.
    #[error(
        "{0} ended unexpectedly, which is a bug; the log says why, and the host is to be started again"
    )]
    Ended(String),
    /// Requests were cut off.
    #[error("stopped with {connections} connections still open after {timeout:?}")]
    Cut {
        /// Connections that were open.
        connections: usize,
        /// How long they had.
        timeout: Duration,
    },
}

/// Serves until a signal says to stop, then lets requests under way finish.
///
/// `started` is told, for people, what is served where once it is. `logs` is where requests are logged,
/// and what counts the lines that were lost; the caller finishes it. `reload` takes over what can change
/// without a restart, and says what it did.
///
/// # Errors
/// [`ServerError`], before anything is served, or when requests had to be cut off at the end.
pub async fn serve(
    config: Config,
    signals: Signals,
    logs: &Logs,
    started: impl FnOnce(&str),
    reload: impl Fn() -> Result<String, String> + Send + 'static,
) -> Result<(), ServerError> {
    let Signals { mut stop, hangup } = signals;
    // Before anything is made for it.
    if config.guests.is_empty() && !config.releases.start_empty && is_new(&config.store) {
        return Err(ServerError::NoGuest);
    }
    let access = &config.admin_access;
    let tokens = token::configured(access.token.as_ref(), access.token_file.as_deref())?;
    // Listening comes first, as it fails fastest.
    // Before they are read, so that no change is missed.
    let tls_files = config.tls.as_ref().map(certificates::look_at);
    let tls = match &config.tls {
        Some(files) => {
            Some(Arc::new(Tls::new(certificates::read(files)?, files.handshake_timeout)))
        }
        None => None,
    };
    let listening = async {
        let clients = Listeners::start(&config, tls.as_ref()).await?;
        Ok::<_, ServerError>((clients, listen("admin", &config.admin).await?))
    };
    let (clients, admin_listeners) = tokio::select! {
        listening = listening => listening?,
        // A name may resolve slowly.
        () = stop.next() => return Ok(()),
    };
    let Listeners { served, listening, files, .. } = clients;
    let (admin_addresses, admin_listeners): (Vec<_>, Vec<_>) = admin_listeners.into_iter().unzip();
    let outside = admin_addresses.iter().find(|address| !is_loopback(address.ip()));
    if tokens.is_empty()
        && let Some(address) = outside
    {
        return Err(ServerError::NoToken { address: *address });
    }
    let is_reachable = outside.is_some();
    // Gone with this function.
    let kept = if tokens.is_empty() { keep_token(&admin_addresses) } else { None };
    let own = kept.as_ref().map(|kept| Named::only(kept.token().clone()));
    let tokens: Vec<Named> = tokens.into_iter().chain(own).collect();
    let registry = Registry::new();
    let metrics = tally_state::Metrics::register(&registry)?;
    let prepared = async {
        let (url, options) = (&config.store, &config.state);
        let dir = config.releases.dir.clone();
        let kept = tokio::task::spawn_blocking(move || Found::kept(dir.as_deref())).await;
        let kept = kept.ok().flatten();
        let (state, is_away) =
            store::open(url, options, &metrics, config.store_wait, kept.is_some()).await?;
        let worker = state.worker();
        // Before they are read, so that no change is missed.
        let watched = match config.watch {
            true => config.guests.iter().map(|guest| (guest.clone(), look(&guest.file))).collect(),
            false => Vec::new(),
        };
        let pools = config.guests.iter().map(|guest| guest.limits.pool);
        let runtime = Runtime::new(Sizes {
            workers: config.workers,
            instances: Instances::of(pools),
            room: config.room,
            backtraces: config.guest_backtraces,
            swaps: config.swaps_file.clone(),
        });
        // Guests are loaded, and slots made, from here on.
        tokio::spawn(upkeep(Arc::clone(&runtime)));
        let table = Table::new(Routes::new(Vec::new()));
        let store =
            Store::new(worker.clone()).map_err(|error| ServerError::Ended(error.to_string()))?;
        let releases = Releases::new(
            store.clone(),
            Arc::clone(&runtime),
            Arc::clone(&table),
            worker.clone(),
            &config,
            &admin_addresses,
        );
        table.fill(
            all_guests(&config, &store, kept.filter(|_| is_away), &releases, &runtime, &worker)
                .await?,
        );
        Ok::<_, ServerError>((state, worker, runtime, table, releases, watched))
    };
    let (state, worker, runtime, routes, releases, watched) = tokio::select! {
        prepared = prepared => prepared?,
        // Nothing has been served that would have to be finished.
        () = stop.next() => return Ok(()),
    };
    // Until the store has said so.
    routes.is_current_until(Some(Instant::now()));
    let mut following = tokio::spawn(Arc::clone(&releases).follow());
    let metrics = edge::Metrics::register(&registry)?;
    let workers = Workers::start(
        config.workers,
        listening,
        &routes,
        &state,
        &config.edge,
        &metrics,
        logs.access(),
    )?;
    let workers = Arc::new(workers);
    let admin = Admin::new(
        registry,
        Arc::clone(&runtime),
        Arc::clone(&releases),
        Arc::clone(&workers),
        state.clone(),
        logs.clone(),
        Gate::new(tokens, is_reachable, config.admin_access.hosts.clone()),
    );
    let admin = Arc::new(admin?);

    let mut admin_task = tokio::spawn(Arc::clone(&admin).serve(admin_listeners));
    let accounting = tokio::spawn(account(Arc::clone(&routes), worker.clone()));
    let reporting = tokio::spawn(logging::report());
    let watching =
        config.watch.then(|| tokio::spawn(watch(watched, Arc::clone(&routes), worker.clone())));
    let looking = {
        let (guests, worker) = (config.guests.clone(), worker.clone());
        // Others keep keys there, too, and to look through all of them may take long.
        let is_shared = state.description().backend == "redis";
        tokio::spawn(async move { orphans::report(&guests, &worker, is_shared).await })
    };
    let tls = config.tls.clone().zip(tls);
    let renewing = tls
        .clone()
        .zip(tls_files)
        .map(|((files, tls), seen)| tokio::spawn(certificates::watch(files, tls, seen)));
    let reloading = tokio::spawn(reload_on(hangup, reload, tls));
    let token_files = kept.as_ref().map_or(&[][..], Kept::paths);
    started(&banner(&config, &routes.routes(), &state, &served, &admin_addresses, token_files));

    let until_stopped = async {
        stop.next().await;
        admin.start_draining();
        if config.shutdown_delay.is_zero() {
            return false;
        }
        tracing::info!(
            "not ready, and stopping in {:?}; a second signal ends at once",
            config.shutdown_delay
        );
        tokio::select! {
            () = tokio::time::sleep(config.shutdown_delay) => false,
            () = stop.next() => true,
        }
    };
    let at_once = tokio::select! {
        at_once = until_stopped => at_once,
        // One that goes on without them would look alive.
        part = workers.ended() => return Err(ServerError::Ended(part)),
        _ = &mut admin_task => return Err(ServerError::Ended("the admin listener".into())),
        _ = &mut following => return Err(ServerError::Ended("following releases".into())),
    };
    tracing::info!(connections = workers.connections(), "stopping; a second signal ends at once");
    if let Some(watching) = watching {
        watching.abort();
    }
    reloading.abort();
    if let Some(renewing) = renewing {
        renewing.abort();
    }
    // Who connects from here on finds nobody, and what has begun is served.
    drop(files);
    let grace = GRACE.min(config.drain_timeout / 2);
    let cut = tokio::select! {
        biased;
        () = std::future::ready(()), if at_once => Some(Duration::ZERO),
        () = stop.next() => Some(Duration::ZERO),
        () = drain(&workers, &runtime, grace) => None,
        () = tokio::time::sleep(config.drain_timeout) => Some(config.drain_timeout),
    };
    let connections = workers.connections();
    following.abort();
    accounting.abort();
    reporting.abort();
    looking.abort();
    if cut != Some(Duration::ZERO) {
        // What was recorded since the last account; a store that is away does not hold up the end.
        let last = async {
            account_once(&routes, &worker).await;
            releases.end().await;
        };
        let _ = tokio::time::timeout(LAST_ACCOUNT, last).await;
    }
    admin_task.abort();
    match cut {
        Some(timeout) if connections > 0 => Err(ServerError::Cut { connections, timeout }),
        _ => Ok(()),
    }
}

/// Takes no more connections, and waits until none is open and no guest is at work: one may go on after
/// its answer.
async fn drain(workers: &Workers, runtime: &Runtime, grace: Duration) {
    workers.start_draining(grace);
    workers.stop_listening().await;
    workers.drained().await;
    while runtime.is_at_work() {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
}

/// All guests at the start: those of the file, and in the place of some, what was deployed.
async fn all_guests(
    config: &Config,
    store: &Store,
    kept: Option<Found>,
    releases: &Arc<Releases>,
    runtime: &Arc<Runtime>,
    worker: &tally_state::Handle,
) -> Result<Vec<(Pattern, Arc<Guest>)>, ServerError> {
    let longest = config.state.timeout.saturating_add(config.store_wait);
    let found = match kept {
        Some(kept) => kept,
        None => match tokio::time::timeout(longest, Found::read(store)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => nothing_found(&error),
            Err(_) => nothing_found(&format!("no answer within {longest:?}")),
        },
    };
    if config.guests.is_empty() && !config.releases.start_empty && !found.has_any() {
        return Err(ServerError::NoGuest);
    }
    let mut of_file: Vec<GuestConfig> = config.guests.clone();
    let superseded: HashSet<String> =
        of_file.iter().map(|guest| guest.name.clone()).filter(|name| found.has(name)).collect();
    let (mut routes, fallen_back) = releases.start(found, config.load_ahead).await;
    of_file.retain(|guest| !superseded.contains(&guest.name) || fallen_back.contains(&guest.name));
    routes.extend(prepare(config, &of_file, !routes.is_empty(), runtime, worker).await?);
    Ok(routes)
}

fn nothing_found(reason: &dyn fmt::Display) -> Found {
    tracing::error!(
        "releases cannot be read from the store; this host begins with its file: {reason}"
    );
    Found::nothing()
}

/// Whether nothing can have been deployed in a store.
fn is_new(store: &str) -> bool {
    match tally_state::sqlite_path(store) {
        Some(file) => !file.exists(),
        None => store == "memory:",
    }
}

/// Makes a token for the admin listener where none is configured. Without one, nobody can deploy.
fn keep_token(admin: &[SocketAddr]) -> Option<Kept> {
    Kept::make(admin)
        .inspect_err(|reason| {
            tracing::warn!(
                "no deployments over HTTP: there is no file to keep a token in ({reason}); {}",
                token::ADVICE
            );
        })
        .ok()
}

/// A place where requests are served, for people.
struct Served {
    at: String,
    redirects_to: Option<u16>,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.redirects_to {
            None => f.write_str(&self.at),
            Some(port) => write!(f, "{}  which sends clients to https at port {port}", self.at),
        }
    }
}

/// All that listens for clients. The files are there for as long as what stands for them is kept.
#[derive(Default)]
struct Listeners {
    served: Vec<Served>,
    listening: Vec<Listening>,
    files: Vec<SocketFile>,
    /// The first port with TLS.
    tls_port: Option<u16>,
}

impl Listeners {
    /// Listens wherever requests are to be served.
    async fn start(config: &Config, tls: Option<&Arc<Tls>>) -> Result<Self, ServerError> {
        let mut listeners = Self::default();
        listeners.add(config, "listen", &config.listen, &Protocol::Plain).await?;
        if let Some(tls) = tls {
            let tls = Protocol::Tls(Arc::clone(tls));
            listeners.add(config, "tls-listen", &config.tls_listen, &tls).await?;
        }
        if let Some(port) = config.redirect_to.or(listeners.tls_port) {
            let redirect = Protocol::Redirect { port };
            listeners.add(config, "redirect-listen", &config.redirect_listen, &redirect).await?;
        } else if !config.redirect_listen.is_empty() {
            return Err(ServerError::NowhereToRedirect);
        }
        Ok(listeners)
    }

    async fn add(
        &mut self,
        config: &Config,
        key: &'static str,
        addresses: &[ListenAddress],
        protocol: &Protocol,
    ) -> Result<(), ServerError> {
        let places = listen_for_each(config.workers, key, addresses, config.socket_mode).await?;
        for Place { at, sockets } in places {
            let (scheme, redirects_to) = match protocol {
                Protocol::Plain => ("http", None),
                Protocol::Tls(_) => ("https", None),
                Protocol::Redirect { port } => ("http", Some(*port)),
            };
            let at = match at {
                At::Address(address) => {
                    if matches!(protocol, Protocol::Tls(_)) {
                        self.tls_port.get_or_insert(address.port());
                    }
                    format!("{scheme}://{address}")
                }
                At::File(file) => {
                    let at = format!("unix:{}", file.path().display());
                    self.files.push(file);
                    if scheme == "https" { format!("{at}  over TLS") } else { at }
                }
            };
            self.served.push(Served { at, redirects_to });
            self.listening.push(Listening { sockets, protocol: protocol.clone() });
        }
        Ok(())
    }
}

/// What is served where, and what the store promises.
fn banner(
    config: &Config,
    routes: &Routes,
    state: &State,
    served: &[Served],
    admin: &[SocketAddr],
    token_files: &[PathBuf],
) -> String {
    let description = state.description();
    let mut text = String::new();
    // Writing to a string does not fail.
    for (number, served) in served.iter().enumerate() {
        let _ = match number {
            0 => writeln!(text, "serving  {served}  with {} workers", config.workers),
            _ => writeln!(text, "serving  {served}"),
        };
    }
    for (pattern, guest) in routes.iter().take(MOST_TOLD) {
        let file = config.guests.iter().find(|config| *config.name == **guest.name());
        let file = file.map(|config| config.file.display().to_string()).unwrap_or_default();
        let release = guest.release();
        let _ = match release.failure() {
            Some(failure) => {
                writeln!(text, "route    {pattern}  to {file} (NOT SERVED: {failure})")
            }
            None => writeln!(
                text,
                "route    {pattern}  to {file} (version {}, {}, pool of {})",
                release.version(),
                release.world().map_or("unknown", World::name),
                guest.tenant().pool(),
            ),
        };
    }
    if let Some(others) = routes.iter().count().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
        let _ = writeln!(text, "         and {others} more; the admin listener has all at /guests");
    }
    for admin in admin {
        let _ = writeln!(text, "admin    http://{admin}  /livez /readyz /metrics /guests");
    }
    for file in token_files {
        let _ = writeln!(text, "token    for tally deploy, in {}", file.display());
    }
    let _ = write!(text, "store    {description}");
    if let Some(warning) = &description.warning {
        let _ = write!(text, "\nwarning  {warning}");
    }
    text
}
