//! What can be configured, all of it optional: one list for flags, environment and file.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Command, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{
    ConfigError,
    guests::{GuestOptions, ROUTE_KEYS, RouteOptions},
    listen::{ListenAddress, one_or_many},
    units::{Mode, Size, Span},
};
use crate::{
    edge,
    runtime::{Room, SWAPS},
};

/// Guests that are loaded at the start: all of a small configuration, and some of a large one.
const LOAD_AHEAD: usize = 32;

/// Soon enough for people, and four small reads a second for the store.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(250);

/// Enough to go back a day or two; each is a component in the store.
const KEEP_RELEASES: usize = 10;

pub(super) const ADMIN: ListenAddress = ListenAddress::local(3_001);

/// A few round trips, of clients far away and slow.
const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Those who run the server and its group: a proxy in front of it is put into the group.
pub(super) const SOCKET_MODE: Mode = Mode(0o660);

/// The variable with the token of the admin listener. There is no flag for it, as other users of the
/// machine can see command lines.
pub const ADMIN_TOKEN: &str = "TALLY_ADMIN_TOKEN";

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// Not at all.
    #[default]
    Off,
    /// The combined format of Apache and nginx.
    Combined,
    /// One JSON object a line.
    Json,
}

/// Which field of trusted proxies is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustedHeader {
    /// X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host.
    #[default]
    XForwarded,
    /// Forwarded (RFC 7239).
    Forwarded,
}

impl From<TrustedHeader> for edge::ProxyHeader {
    fn from(header: TrustedHeader) -> Self {
        match header {
            TrustedHeader::XForwarded => Self::XForwarded,
            TrustedHeader::Forwarded => Self::Forwarded,
        }
    }
}

/// The options, by their names in a file. The help texts are those of the flags.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Options {
    /// The guest: a WebAssembly component
    #[arg(value_name = "GUEST.wasm", env = "TALLY_GUEST")]
    pub guest: Option<PathBuf>,

    /// File of settings [default: tally.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "TALLY_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Where state is kept: sqlite:PATH, redis://…, rediss://…, redis-sentinel://…, postgres://… or
    /// memory: [default: sqlite:tally.db]
    #[arg(long, value_name = "URL", env = "TALLY_STORE", hide_env_values = true)]
    pub store: Option<String>,

    /// Address to serve requests at: 127.0.0.1:3000, :3000 for all, localhost:3000, or unix:PATH. Can be
    /// repeated, or a list with commas [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDRESS", env = "TALLY_LISTEN", value_delimiter = ',')]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Option::is_none")]
    pub listen: Option<Vec<ListenAddress>>,

    /// Address to serve requests at over TLS; as --listen, which without its own value then has none. Needs
    /// --tls-certificate and --tls-key
    #[arg(long, value_name = "ADDRESS", env = "TALLY_TLS_LISTEN", value_delimiter = ',')]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Option::is_none")]
    pub tls_listen: Option<Vec<ListenAddress>>,

    /// Address where clients are sent to the one with TLS, with 308; as --listen
    #[arg(long, value_name = "ADDRESS", env = "TALLY_REDIRECT_LISTEN", value_delimiter = ',')]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Option::is_none")]
    pub redirect_listen: Option<Vec<ListenAddress>>,

    /// Port that --redirect-listen sends clients to [default: the first one with TLS]
    #[arg(long, value_name = "N", env = "TALLY_REDIRECT_TO")]
    pub redirect_to: Option<u16>,

    /// PEM file with a certificate for TLS, and those of who signed it. Can be repeated: clients get the one
    /// for the name that they ask for
    #[arg(long, value_name = "FILE", env = "TALLY_TLS_CERTIFICATE", value_delimiter = ',')]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Option::is_none")]
    pub tls_certificate: Option<Vec<PathBuf>>,

    /// PEM file with the private key of a certificate, in the same order
    #[arg(long, value_name = "FILE", env = "TALLY_TLS_KEY", value_delimiter = ',')]
    #[serde(with = "one_or_many", default, skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<Vec<PathBuf>>,

    /// PEM file with certificates, one of which must have signed a certificate that the client shows
    #[arg(long, value_name = "FILE", env = "TALLY_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,

    /// Longest time for a TLS handshake [default: 10s]
    #[arg(long, value_name = "TIME", env = "TALLY_TLS_HANDSHAKE_TIMEOUT")]
    pub tls_handshake_timeout: Option<Span>,

    /// Permissions of sockets in the file system [default: 0660]
    #[arg(long, value_name = "MODE", env = "TALLY_SOCKET_MODE")]
    pub socket_mode: Option<Mode>,

    /// Address to serve health and metrics at, and to take deployments; other than on loopback only
    /// with a token [default: 127.0.0.1:3001]
    #[arg(long, value_name = "ADDRESS", env = "TALLY_ADMIN")]
    pub admin: Option<ListenAddress>,

    /// File with the token for the admin listener; the token itself can be in TALLY_ADMIN_TOKEN
    /// [default: on loopback, a token is made and kept where tally deploy finds it]
    #[arg(long, value_name = "FILE", env = "TALLY_ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<PathBuf>,

    /// Further name by which clients may call the admin listener; can be repeated [default: none]
    #[arg(
        long = "admin-host",
        value_name = "HOST",
        env = "TALLY_ADMIN_HOSTS",
        value_delimiter = ','
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_hosts: Option<Vec<String>>,

    /// Threads that serve requests [default: the machine's cores]
    #[arg(long, value_name = "N", env = "TALLY_WORKERS")]
    pub workers: Option<usize>,

    /// Connections open at once [default: 10000, or what the limit on open files leaves]
    #[arg(long, value_name = "N", env = "TALLY_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,

    /// Largest request head [default: 32KiB]
    #[arg(long, value_name = "SIZE", env = "TALLY_HEAD_LIMIT")]
    pub head_limit: Option<Size>,

    /// Largest request body [default: 1MiB]
    #[arg(long, value_name = "SIZE", env = "TALLY_BODY_LIMIT")]
    pub body_limit: Option<Size>,

    /// All responses that wait for their clients to read them [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "TALLY_RESPONSES_LIMIT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responses_limit: Option<Size>,

    /// All request bodies at once [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "TALLY_BODIES_LIMIT")]
    pub bodies_limit: Option<Size>,

    /// Longest time a client may take to send a request's head, or not read [default: 30s]
    #[arg(long, value_name = "TIME", env = "TALLY_HEAD_TIMEOUT")]
    pub head_timeout: Option<Span>,

    /// Longest time a connection may be idle between requests; longer than a load balancer in front keeps
    /// its connections [default: 1m 15s]
    #[arg(long, value_name = "TIME", env = "TALLY_IDLE_TIMEOUT")]
    pub idle_timeout: Option<Span>,

    /// Longest time a request's body may take to arrive [default: 30s]
    #[arg(long, value_name = "TIME", env = "TALLY_BODY_TIMEOUT")]
    pub body_timeout: Option<Span>,

    /// Proxy that is believed when it says who its client is: an address, a range of them as
    /// 10.0.0.0/8, or 'unix' for all that come by Unix sockets; can be repeated [default: none]
    #[arg(
        long = "trusted-proxy",
        value_name = "CIDR",
        env = "TALLY_TRUSTED_PROXIES",
        value_delimiter = ','
    )]
    pub trusted_proxies: Option<Vec<String>>,

    /// The field in which trusted proxies say so; the other one is theirs to pass on from anybody
    /// [default: x-forwarded]
    #[arg(long, value_name = "FIELD", env = "TALLY_TRUSTED_PROXY_HEADER")]
    pub trusted_proxy_header: Option<TrustedHeader>,

    /// Expect the PROXY protocol, version 1 or 2, of trusted proxies [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "TALLY_PROXY_PROTOCOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub proxy_protocol: Option<bool>,

    /// Longest time the store may take to answer [default: 5s]
    #[arg(long, value_name = "TIME", env = "TALLY_STORE_TIMEOUT")]
    pub store_timeout: Option<Span>,

    /// Longest time to connect to the store [default: 1s]
    #[arg(long, value_name = "TIME", env = "TALLY_CONNECT_TIMEOUT")]
    pub connect_timeout: Option<Span>,

    /// Longest time to wait at the start for a store that is away [default: 10s]
    #[arg(long, value_name = "TIME", env = "TALLY_STORE_WAIT")]
    pub store_wait: Option<Span>,

    /// How long a request's Idempotency-Key is remembered [default: 1day]
    #[arg(long, value_name = "TIME", env = "TALLY_IDEMPOTENCY_WINDOW")]
    pub idempotency_window: Option<Span>,

    /// File that holds the store's URL, instead of --store
    #[arg(long, value_name = "FILE", env = "TALLY_STORE_FILE")]
    pub store_file: Option<PathBuf>,

    /// Folder for the SQLite databases of guests [default: beside the file of an SQLite store, as
    /// tally.db-guests]
    #[arg(long, value_name = "FOLDER", env = "TALLY_SQLITE_DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqlite_dir: Option<PathBuf>,

    /// How long the host goes on serving after SIGTERM or SIGINT, while it says that it is not ready
    /// [default: 0s]
    #[arg(long, value_name = "TIME", env = "TALLY_SHUTDOWN_DELAY")]
    pub shutdown_delay: Option<Span>,

    /// Longest time for requests under way after SIGTERM or SIGINT [default: 30s]
    #[arg(long, value_name = "TIME", env = "TALLY_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<Span>,

    /// What to log: error, warn, info, debug, trace, or a filter as in info,tally=debug
    /// [default: info]
    #[arg(long, value_name = "FILTER", env = "TALLY_LOG")]
    pub log: Option<String>,

    /// How to log
    #[arg(long, value_name = "FORMAT", env = "TALLY_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,

    /// Log each failed request, instead of the first of a kind and then counts [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "TALLY_LOG_EVERY_FAILURE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub log_every_failure: Option<bool>,

    /// Log each request, in the combined format of Apache and nginx or as JSON [default: off]
    #[arg(long, value_name = "FORMAT", env = "TALLY_ACCESS_LOG")]
    pub access_log: Option<AccessFormat>,

    /// File for the access log; opened again when it was moved or removed [default: standard output]
    #[arg(long, value_name = "FILE", env = "TALLY_ACCESS_LOG_FILE")]
    pub access_log_file: Option<PathBuf>,

    /// Load guests again when their files change [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "TALLY_WATCH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub watch: Option<bool>,

    /// Guests that are loaded at once; others are loaded when they are asked for [default: 2000]
    #[arg(long, value_name = "N", env = "TALLY_MAX_LOADED")]
    pub max_loaded: Option<usize>,

    /// Compiled code of all guests that are loaded [default: 1GiB]
    #[arg(long, value_name = "SIZE", env = "TALLY_MAX_LOADED_SIZE")]
    pub max_loaded_size: Option<Size>,

    /// Guests that are loaded before anything is served, the first ones of the file; others are loaded
    /// when they are asked for [default: 32]
    #[arg(long, value_name = "N", env = "TALLY_LOAD_AHEAD")]
    pub load_ahead: Option<usize>,

    /// Do not start where a guest cannot be served [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "TALLY_STRICT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub strict: Option<bool>,

    /// Log a guest's own stack when it traps, which takes guests a little time [default: true with
    /// --watch, else false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "TALLY_GUEST_BACKTRACES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub guest_backtraces: Option<bool>,

    /// Where the kernel lists swap: with swap, guests' memory is not kept between requests. An empty
    /// file says that this process has none, as in a container that may not use it [default:
    /// /proc/swaps]
    #[arg(long, value_name = "FILE", env = "TALLY_SWAPS_FILE")]
    pub swaps_file: Option<PathBuf>,

    /// How often the host asks the store for deployments [default: 250ms]
    #[arg(long, value_name = "TIME", env = "TALLY_FOLLOW_INTERVAL")]
    pub follow_interval: Option<Span>,

    /// Releases of each guest that are kept in the store [default: 10]
    #[arg(long, value_name = "N", env = "TALLY_KEEP_RELEASES")]
    pub keep_releases: Option<usize>,

    /// Folder for the releases that run, from which a host starts while the store is away [default: beside
    /// the compiled guests, in the user's folder for caches]
    #[arg(long, value_name = "FOLDER", env = "TALLY_RELEASES_DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub releases_dir: Option<PathBuf>,

    /// Start without a guest, and serve those that are deployed [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "TALLY_START_EMPTY",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub start_empty: Option<bool>,

    /// What the guest may have.
    #[command(flatten)]
    #[serde(flatten)]
    pub guest_options: GuestOptions,

    /// Further guests.
    #[arg(skip)]
    #[serde(rename = "route", default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteOptions>,
}

impl Options {
    /// With everything that has a default; the guest alone has none.
    pub(super) fn or_defaults(self) -> Self {
        let cores = || std::thread::available_parallelism().map_or(1, Into::into);
        let workers = self.workers.unwrap_or_else(cores);
        let mut defaults = Self::defaults(workers);
        if self.tls_listen.is_some() {
            // Who asks for TLS alone gets nothing beside it.
            defaults.listen = None;
        }
        self.or(defaults)
    }

    fn defaults(workers: usize) -> Self {
        let edge = edge::Limits::of(workers);
        let state = tally_state::Options::default();
        let room = Room::default();
        Self {
            guest: None,
            config: None,
            store: Some("sqlite:tally.db".into()),
            store_file: None,
            listen: Some(vec![ListenAddress::local(3_000)]),
            tls_listen: None,
            redirect_listen: None,
            redirect_to: None,
            tls_certificate: None,
            tls_key: None,
            tls_client_ca: None,
            tls_handshake_timeout: Some(Span(TLS_HANDSHAKE_TIMEOUT)),
            socket_mode: Some(SOCKET_MODE),
            admin: Some(ADMIN),
            admin_token_file: None,
            admin_hosts: None,
            workers: Some(workers),
            max_connections: Some(edge.connections),
            head_limit: Some(Size(edge.head)),
            body_limit: Some(Size(edge.body)),
            responses_limit: Some(Size(edge.responses)),
            bodies_limit: Some(Size(edge.bodies)),
            head_timeout: Some(Span(edge.head_timeout)),
            idle_timeout: Some(Span(edge.idle_timeout)),
            body_timeout: Some(Span(edge.body_timeout)),
            trusted_proxies: Some(Vec::new()),
            trusted_proxy_header: Some(TrustedHeader::default()),
            proxy_protocol: Some(false),
            store_timeout: Some(Span(state.timeout)),
            connect_timeout: Some(Span(state.connect_timeout)),
            store_wait: Some(Span(std::time::Duration::from_secs(10))),
            idempotency_window: Some(Span(state.idempotency_window)),
            shutdown_delay: Some(Span(std::time::Duration::ZERO)),
            drain_timeout: Some(Span(std::time::Duration::from_secs(30))),
            log: Some("info".into()),
            log_format: Some(LogFormat::Text),
            log_every_failure: Some(false),
            access_log: Some(AccessFormat::Off),
            access_log_file: None,
            watch: Some(false),
            max_loaded: Some(room.guests),
            max_loaded_size: Some(Size(room.bytes)),
            load_ahead: Some(LOAD_AHEAD),
            strict: Some(false),
            guest_backtraces: None,
            swaps_file: Some(SWAPS.into()),
            follow_interval: Some(Span(FOLLOW_INTERVAL)),
            keep_releases: Some(KEEP_RELEASES),
            releases_dir: None,
            start_empty: Some(false),
            sqlite_dir: None,
            guest_options: GuestOptions::defaults(),
            routes: Vec::new(),
        }
    }

    /// These, and where they leave something open, the others.
    pub(super) fn or(self, others: Self) -> Self {
        // Two ways to say one thing.
        let (store, store_file) = match (self.store, self.store_file) {
            (None, None) => (others.store, others.store_file),
            own => own,
        };
        Self {
            guest: self.guest.or(others.guest),
            config: self.config.or(others.config),
            store,
            store_file,
            listen: self.listen.or(others.listen),
            tls_listen: self.tls_listen.or(others.tls_listen),
            redirect_listen: self.redirect_listen.or(others.redirect_listen),
            redirect_to: self.redirect_to.or(others.redirect_to),
            tls_certificate: self.tls_certificate.or(others.tls_certificate),
            tls_key: self.tls_key.or(others.tls_key),
            tls_client_ca: self.tls_client_ca.or(others.tls_client_ca),
            tls_handshake_timeout: self.tls_handshake_timeout.or(others.tls_handshake_timeout),
            socket_mode: self.socket_mode.or(others.socket_mode),
            admin: self.admin.or(others.admin),
            admin_token_file: self.admin_token_file.or(others.admin_token_file),
            admin_hosts: self.admin_hosts.or(others.admin_hosts),
            workers: self.workers.or(others.workers),
            max_connections: self.max_connections.or(others.max_connections),
            head_limit: self.head_limit.or(others.head_limit),
            body_limit: self.body_limit.or(others.body_limit),
            responses_limit: self.responses_limit.or(others.responses_limit),
            bodies_limit: self.bodies_limit.or(others.bodies_limit),
            head_timeout: self.head_timeout.or(others.head_timeout),
            idle_timeout: self.idle_timeout.or(others.idle_timeout),
            body_timeout: self.body_timeout.or(others.body_timeout),
            trusted_proxies: self.trusted_proxies.or(others.trusted_proxies),
            trusted_proxy_header: self.trusted_proxy_header.or(others.trusted_proxy_header),
            proxy_protocol: self.proxy_protocol.or(others.proxy_protocol),
            store_timeout: self.store_timeout.or(others.store_timeout),
            connect_timeout: self.connect_timeout.or(others.connect_timeout),
            store_wait: self.store_wait.or(others.store_wait),
            idempotency_window: self.idempotency_window.or(others.idempotency_window),
            shutdown_delay: self.shutdown_delay.or(others.shutdown_delay),
            drain_timeout: self.drain_timeout.or(others.drain_timeout),
            log: self.log.or(others.log),
            log_format: self.log_format.or(others.log_format),
            log_every_failure: self.log_every_failure.or(others.log_every_failure),
            access_log: self.access_log.or(others.access_log),
            access_log_file: self.access_log_file.or(others.access_log_file),
            watch: self.watch.or(others.watch),
            max_loaded: self.max_loaded.or(others.max_loaded),
            max_loaded_size: self.max_loaded_size.or(others.max_loaded_size),
            load_ahead: self.load_ahead.or(others.load_ahead),
            strict: self.strict.or(others.strict),
            guest_backtraces: self.guest_backtraces.or(others.guest_backtraces),
            swaps_file: self.swaps_file.or(others.swaps_file),
            sqlite_dir: self.sqlite_dir.or(others.sqlite_dir),
            follow_interval: self.follow_interval.or(others.follow_interval),
            keep_releases: self.keep_releases.or(others.keep_releases),
            releases_dir: self.releases_dir.or(others.releases_dir),
            start_empty: self.start_empty.or(others.start_empty),
            guest_options: self.guest_options.or(others.guest_options),
            routes: if self.routes.is_empty() { others.routes } else { self.routes },
        }
    }
}

/// Reads a file of settings.
pub(super) fn read_file(path: &Path) -> Result<Options, ConfigError> {
    let failed = |reason: &dyn std::fmt::Display| {
        ConfigError(format!("the file of settings {}: {reason}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let table: toml::Table = text.parse().map_err(|error| failed(&error))?;
    check_keys("key", &table, &keys()).map_err(|error| failed(&error))?;
    if table.get("route").is_some_and(toml::Value::is_table) {
        return Err(failed(&"write [[route]], with two brackets: there can be several"));
    }
    // What else is no list of tables is an error of types, which comes next.
    let routes = table.get("route").and_then(toml::Value::as_array);
    for route in routes.into_iter().flatten().filter_map(toml::Value::as_table) {
        check_keys("key of a route", route, &route_keys()).map_err(|error| failed(&error))?;
    }
    toml::from_str(&text).map_err(|error| failed(&error))
}

fn check_keys(what: &str, table: &toml::Table, known: &[String]) -> Result<(), ConfigError> {
    match table.keys().find(|key| !known.contains(key)) {
        Some(key) => Err(ConfigError(unknown(what, key, known))),
        None => Ok(()),
    }
}

/// Refuses variables that look like settings and are none, as a misspelt one would go unnoticed.
/// Those that Kubernetes sets for a service whose name begins with `tally` are let be.
pub(super) fn check_environment(variables: &[(String, String)]) -> Result<(), ConfigError> {
    let known: Vec<String> = command()
        .get_arguments()
        .filter_map(|argument| argument.get_env().and_then(OsStr::to_str).map(str::to_owned))
        .chain([ADMIN_TOKEN.to_owned()])
        .collect();
    for (name, value) in variables {
        let is_known = known.contains(name) || is_service_variable(name, value);
        if name.starts_with("TALLY_") && !is_known {
            return Err(ConfigError(unknown("environment variable", name, &known)));
        }
    }
    Ok(())
}

/// Whether Kubernetes sets such a variable for a service: for one named `tally-redis`, these are
/// `TALLY_REDIS_SERVICE_HOST`, `…_SERVICE_PORT` and one for each port with a name, `TALLY_REDIS_PORT`
/// with a URL, and `TALLY_REDIS_PORT_6379_TCP` with `…_PROTO`, `…_PORT` and `…_ADDR` behind it. No
/// setting has such a name.
fn is_service_variable(name: &str, value: &str) -> bool {
    if name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
    {
        return true;
    }
    let is_url = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    // The number alone is what a person writes, who wants to hear of --listen.
    (name.ends_with("_PORT") && is_url)
        || name.match_indices("_PORT_").any(|(start, part)| {
            let rest = name.get(start.saturating_add(part.len())..).unwrap_or_default();
            let mut parts = rest.split('_');
            let port = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
            let protocol = parts.next().is_some_and(|name| ["TCP", "UDP", "SCTP"].contains(&name));
            let last = parts.next().is_none_or(|part| ["PROTO", "PORT", "ADDR"].contains(&part));
            port && protocol && last && parts.next().is_none()
        })
}

fn command() -> Command {
    Options::augment_args(Command::new("tally"))
}

/// The names of arguments as keys of a file. Flags that a file has tables for are none.
fn names(command: &Command) -> Vec<String> {
    command
        .get_arguments()
        .map(|argument| argument.get_id().as_str().replace('_', "-"))
        .filter(|key| !["config", "env-flags", "setting-flags"].contains(&key.as_str()))
        .chain(["env".to_owned(), "settings".to_owned()])
        .collect()
}

/// The keys of a file: the options' names, but for the file's own, and tables.
fn keys() -> Vec<String> {
    let mut keys = names(&command());
    keys.push("route".into());
    keys
}

/// The keys of a route.
pub(super) fn route_keys() -> Vec<String> {
    let mut keys = names(&GuestOptions::augment_args(Command::new("route")));
    keys.extend(ROUTE_KEYS.map(str::to_owned));
    keys
}

pub(super) fn unknown(what: &str, name: &str, known: &[String]) -> String {
    let nearest = known
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(name, a).total_cmp(&strsim::jaro_winkler(name, b)));
    match nearest {
        Some(nearest) => format!("unknown {what} '{name}'; the nearest known one is '{nearest}'"),
        None => format!("unknown {what} '{name}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_setting_has_the_name_of_a_service_s_variable() {
        for argument in command().get_arguments() {
            let name = argument.get_env().and_then(OsStr::to_str).unwrap_or_default();
            assert!(!is_service_variable(name, "tcp://10.0.0.1:80"), "{name}");
        }
    }

    #[test]
    fn the_files_keys_are_the_options() {
        let text = toml::to_string(&Options::default().or_defaults()).unwrap();
        let table: toml::Table = text.parse().unwrap();
        for key in table.keys() {
            assert!(keys().contains(key), "{key}");
        }
        // All but the guest, what depends on it, and what is empty.
        let open = [
            "guest",
            "store-file",
            "tls-listen",
            "redirect-listen",
            "redirect-to",
            "tls-certificate",
            "tls-key",
            "tls-client-ca",
            "pool",
            "memory-limit",
            "outgoing-hosts",
            "outgoing-private",
            "tcp",
            "files",
            "scratch",
            "middleware",
            "spin-headers",
            "sqlite",
            "sqlite-dir",
            "releases-dir",
            "guest-backtraces",
            "rate-limit",
            "rate-burst",
            "keep-loaded",
            "access-log-file",
            "admin-token-file",
            "admin-hosts",
        ];
        let empty = ["env", "settings", "route"];
        assert_eq!(table.len() + open.len() + empty.len(), keys().len());
    }
}
