//! What can be configured, all of it optional: one list for flags, environment and file.

use std::{
    ffi::OsStr,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use clap::{Args, Command, ValueEnum};
use serde::{Deserialize, Serialize};

use super::{
    ConfigError,
    guests::{GuestOptions, ROUTE_KEYS, RouteOptions},
    units::{Size, Span},
};
use crate::{edge, runtime::Room};

/// Guests that are loaded at the start: all of a small configuration, and some of a large one.
const LOAD_AHEAD: usize = 32;

pub(super) const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3000);
pub(super) const ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3001);

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

    /// Address to serve requests at [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDRESS", env = "TALLY_LISTEN")]
    pub listen: Option<SocketAddr>,

    /// Address to serve health and metrics at [default: 127.0.0.1:3001]
    #[arg(long, value_name = "ADDRESS", env = "TALLY_ADMIN")]
    pub admin: Option<SocketAddr>,

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

    /// All request bodies at once [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "TALLY_BODIES_LIMIT")]
    pub bodies_limit: Option<Size>,

    /// Longest time a client may take to send a request's head, or not read [default: 30s]
    #[arg(long, value_name = "TIME", env = "TALLY_HEAD_TIMEOUT")]
    pub head_timeout: Option<Span>,

    /// Longest time a connection may be idle between requests; longer than a load balancer in front keeps
    /// its connections [default: 75s]
    #[arg(long, value_name = "TIME", env = "TALLY_IDLE_TIMEOUT")]
    pub idle_timeout: Option<Span>,

    /// Longest time a request's body may take to arrive [default: 30s]
    #[arg(long, value_name = "TIME", env = "TALLY_BODY_TIMEOUT")]
    pub body_timeout: Option<Span>,

    /// Proxy that is believed when it says who its client is: an address, or a range of them as
    /// 10.0.0.0/8; can be repeated [default: none]
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
        self.or(Self::defaults(workers))
    }

    fn defaults(workers: usize) -> Self {
        let edge = edge::Limits::of(workers);
        let state = tally_state::Options::default();
        let room = Room::default();
        Self {
            guest: None,
            config: None,
            store: Some("sqlite:tally.db".into()),
            listen: Some(LISTEN),
            admin: Some(ADMIN),
            workers: Some(workers),
            max_connections: Some(edge.connections),
            head_limit: Some(Size(edge.head)),
            body_limit: Some(Size(edge.body)),
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
            drain_timeout: Some(Span(std::time::Duration::from_secs(30))),
            log: Some("info".into()),
            log_format: Some(LogFormat::Text),
            watch: Some(false),
            max_loaded: Some(room.guests),
            max_loaded_size: Some(Size(room.bytes)),
            load_ahead: Some(LOAD_AHEAD),
            strict: Some(false),
            guest_backtraces: None,
            guest_options: GuestOptions::defaults(),
            routes: Vec::new(),
        }
    }

    /// These, and where they leave something open, the others.
    pub(super) fn or(self, others: Self) -> Self {
        Self {
            guest: self.guest.or(others.guest),
            config: self.config.or(others.config),
            store: self.store.or(others.store),
            listen: self.listen.or(others.listen),
            admin: self.admin.or(others.admin),
            workers: self.workers.or(others.workers),
            max_connections: self.max_connections.or(others.max_connections),
            head_limit: self.head_limit.or(others.head_limit),
            body_limit: self.body_limit.or(others.body_limit),
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
            drain_timeout: self.drain_timeout.or(others.drain_timeout),
            log: self.log.or(others.log),
            log_format: self.log_format.or(others.log_format),
            watch: self.watch.or(others.watch),
            max_loaded: self.max_loaded.or(others.max_loaded),
            max_loaded_size: self.max_loaded_size.or(others.max_loaded_size),
            load_ahead: self.load_ahead.or(others.load_ahead),
            strict: self.strict.or(others.strict),
            guest_backtraces: self.guest_backtraces.or(others.guest_backtraces),
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
/// Those that Kubernetes sets for a service named `tally` are let be.
pub(super) fn check_environment(variables: &[(String, String)]) -> Result<(), ConfigError> {
    let known: Vec<String> = command()
        .get_arguments()
        .filter_map(|argument| argument.get_env().and_then(OsStr::to_str).map(str::to_owned))
        .collect();
    for (name, _) in variables {
        let theirs = name.starts_with("TALLY_SERVICE_")
            || name == "TALLY_PORT"
            || name.starts_with("TALLY_PORT_");
        if name.starts_with("TALLY_") && !theirs && !known.contains(name) {
            return Err(ConfigError(unknown("environment variable", name, &known)));
        }
    }
    Ok(())
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
fn route_keys() -> Vec<String> {
    let mut keys = names(&GuestOptions::augment_args(Command::new("route")));
    keys.extend(ROUTE_KEYS.map(str::to_owned));
    keys
}

fn unknown(what: &str, name: &str, known: &[String]) -> String {
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
    fn the_files_keys_are_the_options() {
        let text = toml::to_string(&Options::default().or_defaults()).unwrap();
        let table: toml::Table = text.parse().unwrap();
        for key in table.keys() {
            assert!(keys().contains(key), "{key}");
        }
        // All but the guest, what depends on it, and what is empty.
        let open = [
            "guest",
            "pool",
            "memory-limit",
            "outgoing-hosts",
            "outgoing-private",
            "guest-backtraces",
            "rate-limit",
            "rate-burst",
            "keep-loaded",
        ];
        let empty = ["env", "settings", "route"];
        assert_eq!(table.len() + open.len() + empty.len(), keys().len());
    }
}
