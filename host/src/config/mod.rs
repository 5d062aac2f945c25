//! The one configuration: flags over environment over file.
//!
//! `options` is what can be written, all of it optional; here it becomes a [`Config`] that is
//! complete and checked. Nothing else in the program reads flags, the environment or files of
//! settings.

mod guests;
#[cfg(test)]
mod limits_page;
mod listen;
mod options;
mod proxies;
mod releases;
mod store;
mod tls;
mod units;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) use self::store::STORE_HEADING;
pub use self::{
    guests::{GuestConfig, GuestOptions, RouteOptions},
    listen::ListenAddress,
    options::{ADMIN_TOKEN, AccessFormat, LogFormat, Options, TrustedHeader},
    releases::{ReleaseConfig, ReleaseSettings},
    store::StoreOptions,
    tls::TlsConfig,
    units::{Mode, Size, Span},
};
use crate::{edge, interfaces::descriptors_for_guests, runtime::Room};

/// The file that is read where none is named.
pub const DEFAULT_FILE: &str = "tally.toml";

/// Why a configuration cannot be used. The text says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) String);

/// What the program runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The guests, each with its route; none where a command needs none.
    pub guests: Vec<GuestConfig>,
    /// What is done with guests that are deployed.
    pub releases: ReleaseConfig,
    /// Whether guests are loaded again when their files change.
    pub watch: bool,
    /// How much loaded code there may be.
    pub room: Room,
    /// How many guests are loaded before anything is served.
    pub load_ahead: usize,
    /// Whether one guest that cannot be served keeps the host from starting.
    pub strict: bool,
    /// Whether a trap is logged with the guest's own stack.
    pub guest_backtraces: bool,
    /// Where the kernel lists swap.
    pub swaps_file: PathBuf,
    /// The store's URL. May hold a password: never to be printed.
    pub store: String,
    /// Where requests are served.
    pub listen: Vec<ListenAddress>,
    /// Where they are served over TLS.
    pub tls_listen: Vec<ListenAddress>,
    /// TLS there.
    pub tls: Option<TlsConfig>,
    /// Where clients are sent to TLS.
    pub redirect_listen: Vec<ListenAddress>,
    /// To which port; without, the first one with TLS.
    pub redirect_to: Option<u16>,
    /// Permissions of sockets in the file system.
    pub socket_mode: u32,
    /// Where health and metrics are served; no socket in the file system.
    pub admin: ListenAddress,
    /// How clients of the admin listener are known.
    pub admin_access: AdminAccess,
    /// Threads that serve requests, each with a runtime of its own.
    pub workers: usize,
    /// What clients may use.
    pub edge: edge::Limits,
    /// The state layer's limits.
    pub state: tally_state::Options,
    /// How long a store that is away is waited for at the start; zero is not at all.
    pub store_wait: Duration,
    /// How long requests are served after a signal to stop, before that.
    pub shutdown_delay: Duration,
    /// How long requests under way may take after a signal to stop.
    pub drain_timeout: Duration,
    /// What is logged, in `tracing`'s syntax.
    pub log: String,
    /// How it is written.
    pub log_format: LogFormat,
    /// Whether failures are logged one by one, and not summed up.
    pub log_every_failure: bool,
    /// How requests are logged.
    pub access_log: AccessFormat,
    /// The file they are logged to; none is standard output.
    pub access_log_file: Option<PathBuf>,
}

/// How clients of the admin listener are known.
#[derive(Clone, Debug, Default)]
pub struct AdminAccess {
    /// The token from the environment.
    pub token: Option<Secret>,
    /// The file that holds the token.
    pub token_file: Option<PathBuf>,
    /// Names by which they may call it, beside those of this machine.
    pub hosts: Vec<String>,
}

/// A text that is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A secret, unless the text is empty: environments often have variables for what is not set.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// The text. Never to be printed or logged.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// The text of a file of settings with these routes.
///
/// # Errors
/// [`ConfigError`] for a route that is incomplete, has a wrong value, or clashes with another.
pub(crate) fn file_of(routes: Vec<RouteOptions>) -> Result<String, ConfigError> {
    guests::resolve(None, GuestOptions::defaults(), routes.clone())?;
    let options = Options { routes, ..Options::default() };
    toml::to_string(&options).map_err(|error| ConfigError(error.to_string()))
}

impl Config {
    /// Completes options with the file's and the defaults, and checks them.
    ///
    /// # Errors
    /// [`ConfigError`] for a file that cannot be read, an unknown key in it or in the environment
    /// (with the nearest known one), or a value out of its range.
    pub fn load(flags: Options, environment: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut config = Self::resolve(Self::options(flags, environment)?)?;
        let token = environment.iter().find(|(name, _)| name == ADMIN_TOKEN);
        config.admin_access.token = token.and_then(|(_, token)| Secret::new(token));
        Ok(config)
    }

    /// What is in force, completed and without secrets, as a `tally.toml`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn show(flags: Options, environment: &[(String, String)]) -> Result<String, ConfigError> {
        let mut options = Self::options(flags, environment)?.or_defaults();
        Self::resolve(options.clone())?;
        options.store = options.store.map(|store| hide_secrets(&store));
        // Nobody knows which of these are secrets.
        let routes = options.routes.iter_mut().map(|route| &mut route.options);
        for guest in routes.chain([&mut options.guest_options]) {
            let values = guest.env.values_mut().chain(guest.settings.values_mut());
            values.for_each(|value| *value = HIDDEN.into());
        }
        toml::to_string(&options).map_err(|error| ConfigError(error.to_string()))
    }

    fn options(flags: Options, environment: &[(String, String)]) -> Result<Options, ConfigError> {
        options::check_environment(environment)?;
        let file = match &flags.config {
            Some(path) => options::read_file(path)?,
            None if Path::new(DEFAULT_FILE).exists() => {
                options::read_file(Path::new(DEFAULT_FILE))?
            }
            None => Options::default(),
        };
        Ok(flags.or(file))
    }

    fn resolve(options: Options) -> Result<Self, ConfigError> {
        // The defaults leave nothing open but the guest, so what follows finds every value.
        let options = options.or_defaults();
        let mut edge = edge::Limits {
            connections: at_least_one("max-connections", options.max_connections)?,
            head: size("head-limit", options.head_limit)?,
            body: size("body-limit", options.body_limit)?,
            bodies: size("bodies-limit", options.bodies_limit)?,
            responses: size("responses-limit", options.responses_limit)?,
            head_timeout: span("head-timeout", options.head_timeout)?,
            idle_timeout: span("idle-timeout", options.idle_timeout)?,
            body_timeout: span("body-timeout", options.body_timeout)?,
            proxies: proxies::resolve(
                options.trusted_proxies.as_deref().unwrap_or_default(),
                options.trusted_proxy_header.unwrap_or_default(),
                options.proxy_protocol.unwrap_or_default(),
            )?,
        };
        if edge.bodies < edge.body {
            return Err(ConfigError("bodies-limit: at least the body-limit".into()));
        }
        if edge.head < edge::SMALLEST_HEAD {
            return Err(ConfigError(format!("head-limit: at least {} bytes", edge::SMALLEST_HEAD)));
        }
        let mut state = tally_state::Options {
            timeout: span("store-timeout", options.store_timeout)?,
            connect_timeout: span("connect-timeout", options.connect_timeout)?,
            idempotency_window: window(options.idempotency_window)?,
            ..tally_state::Options::default()
        };
        let limits = options.guest_options.limits_only();
        let mut guests =
            guests::resolve(options.guest.as_deref(), options.guest_options, options.routes)?;
        if options.access_log_file.is_some() && options.access_log == Some(AccessFormat::Off) {
            return Err(ConfigError(
                "access-log-file: only with access-log = \"combined\" or \"json\"".into(),
            ));
        }
        let workers = at_least_one("workers", options.workers)?;
        let guests_at_most = at_least_one("max-loaded", options.max_loaded)?;
        let room = Room {
            // Each has an open file, and connections have most of them.
            guests: guests_at_most.min((edge::open_files() / 4).max(1)),
            bytes: size("max-loaded-size", options.max_loaded_size)?,
        };
        let listen = options.listen.unwrap_or_default();
        let admin = options.admin.unwrap_or(options::ADMIN);
        if matches!(admin, ListenAddress::Unix(_)) {
            let text = "admin: an address with a port, such as 127.0.0.1:3001; probes and tally deploy ask there";
            return Err(ConfigError(text.into()));
        }
        let tls_listen = options.tls_listen.unwrap_or_default();
        let redirect_listen = options.redirect_listen.unwrap_or_default();
        let all = listen.iter().map(|address| ("listen", address));
        let all = all.chain(tls_listen.iter().map(|address| ("tls-listen", address)));
        let all = all.chain(redirect_listen.iter().map(|address| ("redirect-listen", address)));
        listen::check_unique(all.clone().chain([("admin", &admin)]))?;
        let theirs =
            if guests.iter().any(GuestConfig::opens_files) { descriptors_for_guests() } else { 0 };
        // Those that are deployed later have theirs out of what connections leave.
        let of_guests = room.guests.min(guests.len().max(1));
        edge.leave_files_for(of_guests.saturating_add(theirs), workers, all.count());
        if !redirect_listen.is_empty() && tls_listen.is_empty() && options.redirect_to.is_none() {
            let text = "redirect-listen: clients would be sent to --tls-listen, which is not given; give it, or the port with --redirect-to";
            return Err(ConfigError(text.into()));
        }
        if options.redirect_to == Some(0) {
            return Err(ConfigError("redirect-to: a port, such as 443".into()));
        }
        let tls = tls::resolve(
            !tls_listen.is_empty(),
            options.tls_certificate.unwrap_or_default(),
            options.tls_key.unwrap_or_default(),
            options.tls_client_ca,
            span("tls-handshake-timeout", options.tls_handshake_timeout)?,
        )?;
        // No guest can take all of what is for several, and each can hold one body at least.
        let (bodies, responses) = match guests.len() {
            0 | 1 => (edge.bodies, edge.responses),
            _ => (edge.bodies.div_ceil(2).max(edge.body), edge.responses.div_ceil(2)),
        };
        let store = store::resolve(options.store, options.store_file.as_deref())?;
        let beside_the_store = tally_state::sqlite_path(&store).map(|mut path| {
            path.as_mut_os_string().push(store::DATABASES);
            path
        });
        let databases = options.sqlite_dir.or(beside_the_store);
        let releases = ReleaseConfig {
            follow_interval: span("follow-interval", options.follow_interval)?,
            keep: at_least_one("keep-releases", options.keep_releases)?,
            dir: releases::folder(options.releases_dir, &store),
            start_empty: options.start_empty.unwrap_or_default(),
            defaults: limits,
            databases: databases.clone(),
            known: guests::known(&guests),
            bodies,
            responses,
            window: state.idempotency_window,
        };
        for guest in &mut guests {
            guest.find_databases(databases.as_deref())?;
            // The file of one that is watched may be half written when it would be loaded again.
            guest.keep_loaded |= options.watch.unwrap_or_default();
            guest.limits.bodies = bodies;
            guest.limits.responses = responses;
            guest.limits.window = state.idempotency_window;
            state.buckets.extend(guest.buckets.stored().cloned());
        }
        Ok(Self {
            guests,
            releases,
            watch: options.watch.unwrap_or_default(),
            room,
            load_ahead: options.load_ahead.unwrap_or_default(),
            strict: options.strict.unwrap_or_default(),
            guest_backtraces: options.guest_backtraces.or(options.watch).unwrap_or_default(),
            swaps_file: options.swaps_file.unwrap_or_default(),
            store,
            listen,
            tls_listen,
            tls,
            redirect_listen,
            redirect_to: options.redirect_to,
            socket_mode: options.socket_mode.unwrap_or(options::SOCKET_MODE).0,
            admin,
            admin_access: AdminAccess {
                token: None,
                token_file: options.admin_token_file,
                hosts: options.admin_hosts.unwrap_or_default(),
            },
            workers,
            edge,
            state,
            store_wait: options.store_wait.map(|wait| wait.0).unwrap_or_default(),
            shutdown_delay: options.shutdown_delay.map(|delay| delay.0).unwrap_or_default(),
            drain_timeout: span("drain-timeout", options.drain_timeout)?,
            log: options.log.unwrap_or_default(),
            log_format: options.log_format.unwrap_or_default(),
            log_every_failure: options.log_every_failure.unwrap_or_default(),
            access_log: options.access_log.unwrap_or_default(),
            access_log_file: options.access_log_file,
        })
    }
}

fn at_least_one(name: &str, value: Option<usize>) -> Result<usize, ConfigError> {
    value.filter(|value| *value > 0).ok_or_else(|| ConfigError(format!("{name}: at least 1")))
}

fn span(name: &str, value: Option<Span>) -> Result<Duration, ConfigError> {
    value
        .map(|span| span.0)
        .filter(|span| !span.is_zero())
        .ok_or_else(|| ConfigError(format!("{name}: longer than nothing, such as 500ms or 10s")))
}

/// As long as the stores can count.
const LONGEST_WINDOW: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn window(value: Option<Span>) -> Result<Duration, ConfigError> {
    let name = "idempotency-window";
    let window = span(name, value)?;
    match window <= LONGEST_WINDOW {
        true => Ok(window),
        false => Err(ConfigError(format!("{name}: a year at most"))),
    }
}

fn size(name: &str, value: Option<Size>) -> Result<usize, ConfigError> {
    value
        .map(|size| size.0)
        .filter(|size| *size > 0)
        .ok_or_else(|| ConfigError(format!("{name}: more than nothing, such as 64KiB or 16MiB")))
}

/// What stands in the place of a secret.
const HIDDEN: &str = "***";

/// A store's URL without its password, wherever it stands. What is no URL of a store at all is
/// hidden whole, as nobody knows where in it a password might be.
#[must_use]
pub fn hide_secrets(url: &str) -> String {
    if url.starts_with("sqlite:") || url == "memory:" {
        return url.to_owned();
    }
    let Some((scheme, rest)) = url.split_once("://") else { return HIDDEN.into() };
    // An @ behind a password in the query is part of it, or of who knows what.
    let lower = rest.to_ascii_lowercase();
    if lower.find("password=").is_some_and(|start| lower.rfind('@') > Some(start)) {
        return format!("{scheme}://{HIDDEN}");
    }
    // User information ends at the last @: a password that was not encoded may hold others, and
    // anything else besides.
    let (user, rest) = match rest.rsplit_once('@') {
        None => (String::new(), rest),
        Some((user, rest)) => match user.split_once(':') {
            Some((user, _)) => (format!("{user}:{HIDDEN}@"), rest),
            None => (format!("{user}@"), rest),
        },
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((key, _)) if key.to_ascii_lowercase().contains("pass") => {
                format!("{key}={HIDDEN}")
            }
            _ => pair.to_owned(),
        })
        .collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{scheme}://{user}{place}{mark}{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_wherever_they_stand() {
        for (url, shown) in [
            ("sqlite:tally.db", "sqlite:tally.db"),
            ("redis://localhost:6379", "redis://localhost:6379"),
            ("redis://:secret@localhost", "redis://:***@localhost"),
            ("postgres://user:se@cr:et@host/db", "postgres://user:***@host/db"),
            ("postgres://user:se?cr#et@host/db", "postgres://user:***@host/db"),
            ("host=h user=u password=secret", "***"),
            ("redis-sentinel://u:p@h:1,h:2/s", "redis-sentinel://u:***@h:1,h:2/s"),
            ("redis-sentinel://h:1/s?sentinel_password=a@b", "redis-sentinel://***"),
            ("postgres://u@h/d?Password=secret@secret", "postgres://***"),
            ("redis:u:secret@h", "***"),
            (
                "postgres://user@host/db?password=secret&x=1",
                "postgres://user@host/db?password=***&x=1",
            ),
        ] {
            assert_eq!(hide_secrets(url), shown);
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tally.toml");
        std::fs::write(&path, "store = \"memory:\"\npool = 7\ncpu-limit = \"5ms\"\n").unwrap();
        let guest_options = GuestOptions { pool: Some(9), ..GuestOptions::default() };
        let (config, guest) = (Some(path), Some("g.wasm".into()));
        let flags = Options { config, guest, guest_options, ..Options::default() };
        let config = Config::load(flags, &[]).unwrap();
        assert_eq!(config.store, "memory:");
        let limits = &config.guests[0].limits;
        assert_eq!(limits.pool, Some(9));
        assert_eq!(limits.cpu, Duration::from_millis(5));
        assert_eq!(limits.wall, crate::runtime::Limits::default().wall);
    }

    #[test]
    fn what_is_shown_can_be_read_back_and_holds_no_secret() {
        let flags = Options { store: Some("redis://u:secret@h".into()), ..Options::default() };
        let shown = Config::show(flags, &[]).unwrap();
        assert!(!shown.contains("secret"), "{shown}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shown.toml");
        std::fs::write(&path, &shown).unwrap();
        let again = Options { config: Some(path), ..Options::default() };
        assert_eq!(Config::show(again, &[]).unwrap(), shown);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_known_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tally.toml");
        std::fs::write(&path, "stroe = \"memory:\"\n").unwrap();
        let flags = Options { config: Some(path), ..Options::default() };
        let error = Config::load(flags, &[]).unwrap_err().to_string();
        assert!(error.contains("'stroe'") && error.contains("'store'"), "{error}");
    }

    #[test]
    fn an_unknown_variable_names_the_nearest_known_one() {
        let variable = |name: &str| vec![(name.to_owned(), String::from("1"))];
        let error = Config::load(Options::default(), &variable("TALLY_STROE")).unwrap_err();
        assert!(error.to_string().contains("TALLY_STORE"), "{error}");
        // A number is what a person writes.
        let error = Config::load(Options::default(), &variable("TALLY_PORT")).unwrap_err();
        assert!(error.to_string().contains("TALLY_PORT"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_explained() {
        let guest = |guest_options| Options { guest_options, ..Options::default() };
        for (options, part) in [
            (guest(GuestOptions { pool: Some(0), ..GuestOptions::default() }), "pool"),
            (
                guest(GuestOptions { memory_limit: Some(Size(1)), ..GuestOptions::default() }),
                "memory-limit",
            ),
            (Options { access_log_file: Some("a".into()), ..Options::default() }, "access-log ="),
            (Options { head_limit: Some(Size(10)), ..Options::default() }, "head-limit"),
            (
                guest(GuestOptions {
                    buckets: Some(vec!["a".into(), "a".into()]),
                    ..GuestOptions::default()
                }),
                "configured twice",
            ),
        ] {
            let error = Config::load(options, &[]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    /// What is accepted is shown, and means the same when it is read again; passwords are hidden.
    #[test]
    fn fuzz_configurations() {
        let seeds: [&[u8]; 4] = [
            b"guest = \"counter.wasm\"\nstore = \"redis://u:p@h:1/2\"\nlisten = \"127.0.0.1:80\"\nworkers = 2\n",
            b"body-limit = \"2MiB\"\nbodies-limit = \"3GiB\"\nhead-timeout = \"1m 30s\"\ncpu-limit = \"5ms\"\nlog = \"info\"\n",
            b"[[route]]\nguest = \"a.wasm\"\nhost = \"example.com\"\nprefix = \"/a\"\nbuckets = [\"default=b\"]\n[route.env]\nA = \"b\"\n",
            b"pool = 7\nrate-limit = 5\nrate-burst = 6\noutgoing-hosts = [\"*.example.com:443\"]\nwatch = true\n[settings]\na = \"b\"\n",
        ];
        let words: [&[u8]; 14] = [
            b"\n",
            b"\"",
            b"= ",
            b"[[route]]\n",
            b"[env]\n",
            b"18446744073709551616",
            b"0",
            b"-1",
            b"1e9",
            b"10000000000000000000s",
            b"GiB",
            b"true",
            b"[]",
            b"\\u0000",
        ];
        let dir = tempfile::tempdir().unwrap();
        let (path, shown_path) = (dir.path().join("tally.toml"), dir.path().join("shown.toml"));
        tally_testkit::fuzz("configurations", &seeds, &words, |input| {
            std::fs::write(&path, input).unwrap();
            let options = |path: &std::path::PathBuf| Options {
                config: Some(path.clone()),
                ..Options::default()
            };
            let Ok(shown) = Config::show(options(&path), &[]) else { return };
            Config::load(options(&path), &[]).unwrap();
            std::fs::write(&shown_path, &shown).unwrap();
            match Config::show(options(&shown_path), &[]) {
                Ok(again) => assert_eq!(again, shown),
                Err(error) => panic!("{error} in\n{shown}"),
            }
        });
    }

    #[test]
    fn fuzz_hidden_secrets() {
        const SECRET: &str = "zq9secret7x";
        let seeds: [&[u8]; 5] = [
            b"redis://user:pass@host:6379/0",
            b"postgres://u:p@h/d?password=p&sslmode=disable",
            b"redis-sentinel://u:p@h:1,h:2/s?sentinel_password=p",
            b"postgres://u:p@[::1]:5432/d?options=a",
            b"host=h user=u password=p",
        ];
        let words: [&[u8]; 10] =
            [b"@", b":", b"/", b"?", b"&", b"=", b"password=", b"://", b"#", b"%40"];
        tally_testkit::fuzz("hidden_secrets", &seeds, &words, |input| {
            // Whatever stands around it, a password between the user and the last @, or as the value of
            // a parameter that is called so.
            let Ok(text) = std::str::from_utf8(input) else { return };
            let scheme = |url: &str| url.starts_with("sqlite:") || url == "memory:";
            for url in [
                format!("redis://user:{text}{SECRET}@host"),
                format!("redis://user:{SECRET}{text}@host/0"),
                format!("postgres://host/d?{}&password={SECRET}", text.replace('@', "")),
            ] {
                if !scheme(&url) {
                    let shown = hide_secrets(&url);
                    assert!(!shown.contains(SECRET), "{url} is shown as {shown}");
                }
            }
        });
    }
}
