//! What can be configured of a guest: of the one on the command line, and of each `[[route]]`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{
    ConfigError, at_least_one, size, span,
    units::{Size, Span},
};
use crate::{
    interfaces::{Buckets, Databases, Files, Known, Outgoing, Settings},
    registry::{Path as Paths, Pattern},
    runtime::{Limits, Rate, Recordings},
};

/// Each instance reserves its memory's address space; this many fit x86-64's with room to spare.
const MOST_INSTANCES: usize = 100_000;

/// The largest object of a guest by default: its pieces take a quarter of the operations that one request has.
const BLOB_LIMIT: usize = 64 << 20;

/// What a guest may have, by its names in a file. The help texts are those of the flags.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct GuestOptions {
    /// Bucket that the guest may open, as NAME or NAME=BUCKET OF THE STORE, or * or *=PREFIX* for any; can be
    /// repeated [default: default]
    #[arg(long = "bucket", value_name = "NAME", env = "TALLY_BUCKETS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Vec<String>>,

    /// Guest instances at work at once [default: 1000, or 100 for a guest that carries an
    /// interpreter]
    #[arg(long, value_name = "N", env = "TALLY_POOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<usize>,

    /// Requests that may wait for an instance [default: 1000]
    #[arg(long, value_name = "N", env = "TALLY_QUEUE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<usize>,

    /// Longest wait for an instance [default: 1s]
    #[arg(long, value_name = "TIME", env = "TALLY_QUEUE_TIMEOUT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_timeout: Option<Span>,

    /// Requests of the guest in a second; more are refused with 429 [default: any number]
    #[arg(long, value_name = "N", env = "TALLY_RATE_LIMIT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<u32>,

    /// Requests of the guest that may come at once, where there is a rate-limit [default: as many as in a
    /// second]
    #[arg(long, value_name = "N", env = "TALLY_RATE_BURST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_burst: Option<u32>,

    /// Parts of the machine's time that the guest is to have beside others, where they want more than
    /// there is [default: 100]
    #[arg(long, value_name = "N", env = "TALLY_CPU_WEIGHT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u32>,

    /// Load the guest before anything is served, and keep it loaded [default: of the guest on the command
    /// line true, of a route false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "TALLY_KEEP_LOADED",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_loaded: Option<bool>,

    /// Refuse a guest that imports what this host does not offer, rather than stop it when it calls that
    /// [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "TALLY_STRICT_IMPORTS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict_imports: Option<bool>,

    /// Component that requests pass before the guest, which calls the guest behind it; can be repeated, the
    /// outermost first [default: none]
    #[arg(long, value_name = "FILE", env = "TALLY_MIDDLEWARE", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub middleware: Option<Vec<PathBuf>>,

    /// Longest time a guest may compute for one request [default: 100ms]
    #[arg(long, value_name = "TIME", env = "TALLY_CPU_LIMIT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<Span>,

    /// Longest time one request may take in a guest, waiting included [default: 10s]
    #[arg(long, value_name = "TIME", env = "TALLY_WALL_LIMIT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_limit: Option<Span>,

    /// Memory of one instance [default: 16MiB, or 128MiB for a guest that carries an interpreter]
    #[arg(long, value_name = "SIZE", env = "TALLY_MEMORY_LIMIT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<Size>,

    /// Largest response body of a guest [default: 4MiB]
    #[arg(long, value_name = "SIZE", env = "TALLY_RESPONSE_LIMIT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_limit: Option<Size>,

    /// Largest object that a guest may write with wasi:blobstore [default: 64MiB]
    #[arg(long, value_name = "SIZE", env = "TALLY_BLOB_LIMIT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blob_limit: Option<Size>,

    /// Writes of requests with an Idempotency-Key that may be recorded in the store, within the
    /// idempotency-window [default: 20000000]
    #[arg(long, value_name = "N", env = "TALLY_IDEMPOTENCY_RECORDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_records: Option<usize>,

    /// What these records may take in the store [default: 4GiB]
    #[arg(long, value_name = "SIZE", env = "TALLY_IDEMPOTENCY_BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_bytes: Option<Size>,

    /// Host that the guest may send requests to, as HOST, HOST:PORT, *.HOST or *; can be repeated
    /// [default: none]
    #[arg(
        long = "outgoing-host",
        value_name = "HOST",
        env = "TALLY_OUTGOING_HOSTS",
        value_delimiter = ','
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outgoing_hosts: Option<Vec<String>>,

    /// Host that the guest may connect to by TCP, as HOST:PORT or another form of --outgoing-host; can be
    /// repeated [default: none]
    #[arg(long = "tcp", value_name = "HOST:PORT", env = "TALLY_TCP", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Vec<String>>,

    /// Directory that the guest may read, as /GUEST/PATH=DIRECTORY; can be repeated [default: none]
    #[arg(
        long = "files",
        value_name = "PATH=DIRECTORY",
        env = "TALLY_FILES",
        value_delimiter = ','
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,

    /// Give each request a directory /tmp of its own, to which it may write so much [default: none]
    #[arg(long, value_name = "SIZE", env = "TALLY_SCRATCH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Size>,

    /// Let hosts of --outgoing-host and --tcp be at private addresses: of this machine or its network
    /// [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "TALLY_OUTGOING_PRIVATE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outgoing_private: Option<bool>,

    /// Tell the guest its route and its client in the spin-… headers of requests [default: true for a guest
    /// that imports an interface of Spin's]
    #[arg(
        long,
        value_name = "BOOL",
        env = "TALLY_SPIN_HEADERS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spin_headers: Option<bool>,

    /// SQLite database that the guest may open, as NAME for a file of its own, or NAME=SHARED for one that
    /// guests share; can be repeated [default: none]
    #[arg(long, value_name = "NAME", env = "TALLY_SQLITE", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqlite: Option<Vec<String>>,

    /// Largest size of each such database [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "TALLY_SQLITE_SIZE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqlite_size: Option<Size>,

    /// Environment variable of the guest, as NAME=VALUE; can be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = pair)]
    #[serde(skip)]
    pub env_flags: Vec<(String, String)>,

    /// Setting of the guest, which it reads with wasi:config, as NAME=VALUE; can be repeated
    #[arg(long = "setting", value_name = "NAME=VALUE", value_parser = pair)]
    #[serde(skip)]
    pub setting_flags: Vec<(String, String)>,

    /// Environment variables.
    #[arg(skip)]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,

    /// Settings.
    #[arg(skip)]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// What a guest's database may take on the disk: much for a handler, and little for a disk.
const SQLITE_BYTES: usize = 256 << 20;

/// The largest weight: a guest with it beside one of the default has nearly all.
const MOST_WEIGHT: u32 = 10_000;

fn weight(value: Option<u32>) -> Result<u32, ConfigError> {
    value
        .filter(|weight| (1..=MOST_WEIGHT).contains(weight))
        .ok_or_else(|| ConfigError(format!("cpu-weight: from 1 to {MOST_WEIGHT}")))
}

fn rate(limit: Option<u32>, burst: Option<u32>) -> Result<Option<Rate>, ConfigError> {
    match (limit, burst) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(ConfigError("rate-burst: only with a rate-limit".into())),
        (Some(0), _) => Err(ConfigError("rate-limit: at least 1".into())),
        (_, Some(0)) => Err(ConfigError("rate-burst: at least 1".into())),
        (Some(per_second), burst) => {
            Ok(Some(Rate { per_second, burst: burst.unwrap_or(per_second) }))
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(String::from("write NAME=VALUE")),
    }
}

/// A route: which requests, and the guest that answers them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteOptions {
    /// The guest's name in logs, metrics and `tally deploy`, after which its bucket is called; by default
    /// that of its file, without the ending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The host; any, where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// This path alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// This path and all below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// No requests of clients: other guests reach it by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal: Option<bool>,
    /// The guest's file.
    pub guest: PathBuf,
    /// What the guest may have. Limits that it leaves open are those of the file as a whole.
    #[serde(flatten)]
    pub options: GuestOptions,
}

/// The keys of a route besides those of [`GuestOptions`].
pub(super) const ROUTE_KEYS: [&str; 6] = ["name", "host", "path", "prefix", "internal", "guest"];

/// A guest to serve, as configured.
#[derive(Clone, Debug)]
pub struct GuestConfig {
    /// Its name, unique.
    pub name: String,
    /// Its file.
    pub file: PathBuf,
    /// As it is written, with what it takes over from the file as a whole.
    pub(super) written: RouteOptions,
    /// What it may use.
    pub limits: Limits,
    /// Its environment variables.
    pub env: BTreeMap<String, String>,
    /// What `wasi:config/store` answers.
    pub settings: BTreeMap<String, String>,
    pub(crate) pattern: Pattern,
    pub(crate) buckets: Buckets,
    pub(crate) outgoing: Outgoing,
    /// Whether its requests have Spin's headers, if that is said.
    pub(crate) spin_headers: Option<bool>,
    /// Names of its databases, and what each may take.
    sqlite: (Vec<String>, usize),
    /// Its databases, once it is known where they are.
    pub(crate) databases: Databases,
    /// Bytes of an object that it may write with `wasi:blobstore`.
    pub(crate) blob_limit: usize,
    pub(crate) tcp: Outgoing,
    pub(crate) files: Files,
    /// Whether it is loaded before anything is served, and stays so.
    pub(crate) keep_loaded: bool,
}

impl GuestConfig {
    /// What the guest is given by it.
    pub(crate) fn for_guest(&self) -> Settings {
        Settings {
            name: self.name.as_str().into(),
            buckets: self.buckets.clone(),
            environment: self.env.clone().into_iter().collect(),
            variables: self.settings.clone(),
            outgoing: self.outgoing.clone(),
            host: self.pattern.host.clone(),
            databases: self.databases.clone(),
            spin_headers: self.spin_headers,
            blob_limit: self.blob_limit,
            tcp: self.tcp.clone(),
            files: self.files.clone(),
        }
    }

    /// Whether it may open files or sockets of its own.
    pub(super) fn opens_files(&self) -> bool {
        self.tcp.allows_any() || !self.files.are_none()
    }
}

impl GuestOptions {
    /// Everything that has a default but does not depend on the guest.
    pub(super) fn defaults() -> Self {
        let limits = Limits::default();
        Self {
            buckets: Some(vec!["default".into()]),
            queue: Some(limits.waiting),
            queue_timeout: Some(Span(limits.wait)),
            cpu_weight: Some(limits.weight),
            cpu_limit: Some(Span(limits.cpu)),
            wall_limit: Some(Span(limits.wall)),
            response_limit: Some(Size(limits.response)),
            sqlite_size: Some(Size(SQLITE_BYTES)),
            blob_limit: Some(Size(BLOB_LIMIT)),
            strict_imports: Some(limits.strict_imports),
            idempotency_records: usize::try_from(limits.recordings.records).ok(),
            idempotency_bytes: usize::try_from(limits.recordings.bytes).ok().map(Size),
            ..Self::default()
        }
    }

    /// These, and where they leave something open, the others.
    pub(crate) fn or(self, others: Self) -> Self {
        let merge = |ours: BTreeMap<String, String>, flags: Vec<_>, mut all: BTreeMap<_, _>| {
            all.extend(ours);
            all.extend(flags);
            all
        };
        Self {
            env: merge(self.env, self.env_flags, others.env),
            settings: merge(self.settings, self.setting_flags, others.settings),
            env_flags: Vec::new(),
            setting_flags: Vec::new(),
            buckets: self.buckets.or(others.buckets),
            outgoing_hosts: self.outgoing_hosts.or(others.outgoing_hosts),
            outgoing_private: self.outgoing_private.or(others.outgoing_private),
            tcp: self.tcp.or(others.tcp),
            files: self.files.or(others.files),
            scratch: self.scratch.or(others.scratch),
            spin_headers: self.spin_headers.or(others.spin_headers),
            sqlite: self.sqlite.or(others.sqlite),
            sqlite_size: self.sqlite_size.or(others.sqlite_size),
            pool: self.pool.or(others.pool),
            queue: self.queue.or(others.queue),
            queue_timeout: self.queue_timeout.or(others.queue_timeout),
            rate_limit: self.rate_limit.or(others.rate_limit),
            rate_burst: self.rate_burst.or(others.rate_burst),
            cpu_weight: self.cpu_weight.or(others.cpu_weight),
            keep_loaded: self.keep_loaded.or(others.keep_loaded),
            strict_imports: self.strict_imports.or(others.strict_imports),
            middleware: self.middleware.or(others.middleware),
            cpu_limit: self.cpu_limit.or(others.cpu_limit),
            wall_limit: self.wall_limit.or(others.wall_limit),
            memory_limit: self.memory_limit.or(others.memory_limit),
            response_limit: self.response_limit.or(others.response_limit),
            blob_limit: self.blob_limit.or(others.blob_limit),
            idempotency_records: self.idempotency_records.or(others.idempotency_records),
            idempotency_bytes: self.idempotency_bytes.or(others.idempotency_bytes),
        }
    }

    /// The limits alone: what a route takes over from the file as a whole. What a guest may reach
    /// is its own.
    pub(super) fn limits_only(&self) -> Self {
        Self {
            pool: self.pool,
            queue: self.queue,
            queue_timeout: self.queue_timeout,
            rate_limit: self.rate_limit,
            rate_burst: self.rate_burst,
            cpu_weight: self.cpu_weight,
            keep_loaded: self.keep_loaded,
            strict_imports: self.strict_imports,
            cpu_limit: self.cpu_limit,
            wall_limit: self.wall_limit,
            memory_limit: self.memory_limit,
            response_limit: self.response_limit,
            sqlite_size: self.sqlite_size,
            blob_limit: self.blob_limit,
            idempotency_records: self.idempotency_records,
            idempotency_bytes: self.idempotency_bytes,
            ..Self::default()
        }
    }

    fn limits(&self) -> Result<Limits, ConfigError> {
        let limits = Limits {
            pool: self.pool.map(|pool| at_least_one("pool", Some(pool))).transpose()?,
            waiting: self.queue.unwrap_or_default(),
            wait: span("queue-timeout", self.queue_timeout)?,
            rate: rate(self.rate_limit, self.rate_burst)?,
            weight: weight(self.cpu_weight)?,
            cpu: span("cpu-limit", self.cpu_limit)?,
            wall: span("wall-limit", self.wall_limit)?,
            memory: self.memory_limit.map(|size| size.0),
            response: size("response-limit", self.response_limit)?,
            recordings: Recordings {
                records: at_least_one("idempotency-records", self.idempotency_records)? as u64,
                bytes: size("idempotency-bytes", self.idempotency_bytes)? as u64,
            },
            bodies: Limits::default().bodies,
            responses: Limits::default().responses,
            window: Limits::default().window,
            strict_imports: self.strict_imports.unwrap_or_default(),
            middleware: self.middleware.clone().unwrap_or_default(),
        };
        if limits.pool > Some(MOST_INSTANCES) {
            return Err(ConfigError(format!("pool: at most {MOST_INSTANCES} instances")));
        }
        if limits.memory.is_some_and(|memory| !(1 << 20..=4 << 30).contains(&memory)) {
            return Err(ConfigError("memory-limit: from 1MiB to 4GiB".into()));
        }
        Ok(limits)
    }

    fn guest(
        self,
        name: String,
        file: PathBuf,
        pattern: Pattern,
        written: RouteOptions,
    ) -> Result<GuestConfig, ConfigError> {
        let strings = |list: Option<Vec<String>>| list.unwrap_or_default();
        let buckets = Buckets::parse(strings(self.buckets.clone()).iter().map(String::as_str))
            .map_err(|error| ConfigError(error.to_string()))?;
        let hosts = strings(self.outgoing_hosts.clone());
        let private = self.outgoing_private.unwrap_or_default();
        let outgoing = Outgoing::parse(hosts.iter().map(String::as_str), private)
            .map_err(|error| ConfigError(format!("outgoing-hosts: {error}")))?;
        let hosts = strings(self.tcp.clone());
        let tcp = Outgoing::parse(hosts.iter().map(String::as_str), private)
            .map_err(|error| ConfigError(format!("tcp: {error}")))?;
        let scratch = self.scratch.map(|size| super::size("scratch", Some(size))).transpose()?;
        let files = strings(self.files.clone());
        let files =
            Files::parse(files.iter().map(String::as_str), scratch.map(|bytes| bytes as u64))
                .map_err(|error| ConfigError(format!("files: {error}")))?;
        if name.chars().any(char::is_control) {
            return Err(ConfigError("a name has no control characters".into()));
        }
        let wrong = |name: &&String| name.is_empty() || name.contains(['=', '\0']);
        if let Some(name) = self.env.keys().find(wrong) {
            return Err(ConfigError(format!("env: '{name}' is no name of a variable")));
        }
        let limits = self.limits()?;
        let blob_limit = size("blob-limit", self.blob_limit)?;
        let keep_loaded = self.keep_loaded.unwrap_or_default();
        let sqlite = (strings(self.sqlite), size("sqlite-size", self.sqlite_size)?);
        let (env, settings) = (self.env, self.settings);
        Ok(GuestConfig {
            name,
            file,
            written,
            limits,
            env,
            settings,
            pattern,
            buckets,
            outgoing,
            spin_headers: self.spin_headers,
            sqlite,
            databases: Databases::default(),
            blob_limit,
            tcp,
            files,
            keep_loaded,
        })
    }
}

impl GuestConfig {
    /// Learns where its databases are: `folder` is that of the configuration, or beside the file of an
    /// embedded store.
    ///
    /// # Errors
    /// For names that are none, and where there is no folder.
    pub(super) fn find_databases(&mut self, folder: Option<&Path>) -> Result<(), ConfigError> {
        let (names, bytes) = &self.sqlite;
        if names.is_empty() {
            return Ok(());
        }
        let failed =
            |reason: &str| ConfigError(format!("sqlite of guest '{}': {reason}", self.name));
        let folder = folder.ok_or_else(|| {
            failed("this store has no file for databases to be beside of; name a folder with sqlite-dir")
        })?;
        let (names, bytes) = (names.iter().map(String::as_str), *bytes as u64);
        self.databases = Databases::parse(names, &self.name, folder, bytes)
            .map_err(|reason| failed(&reason.to_string()))?;
        Ok(())
    }
}

/// All guests: that of the command line or the file as a whole, which takes what no route does, and
/// those of the routes.
///
/// # Errors
/// For a route that is incomplete, has a wrong value, or clashes with another.
pub(super) fn resolve(
    guest: Option<&Path>,
    options: GuestOptions,
    routes: Vec<RouteOptions>,
) -> Result<Vec<GuestConfig>, ConfigError> {
    let mut guests = Vec::new();
    let limits = options.limits_only();
    // Checked also where no guest uses them.
    limits.limits()?;
    if let Some(file) = guest {
        let mut options = options;
        options.keep_loaded = options.keep_loaded.or(Some(true));
        let written = RouteOptions {
            prefix: Some("/".into()),
            options: options.clone(),
            ..RouteOptions::default()
        };
        let everything = Pattern::everything();
        guests.push(options.guest("default".into(), file.to_owned(), everything, written)?);
    } else {
        let written = RouteOptions::default();
        options.guest(String::new(), PathBuf::new(), Pattern::everything(), written)?;
    }
    for (number, route) in routes.into_iter().enumerate() {
        let place = format!("route {}", number.saturating_add(1));
        let failed = |reason: String| ConfigError(format!("{place}: {reason}"));
        let pattern = pattern(&route).map_err(failed)?;
        // Not after its route: state stays with a guest that moves to another.
        let of_file = || Some(route.guest.file_stem()?.to_string_lossy().into_owned());
        let name = route.name.clone().or_else(of_file).unwrap_or_else(|| pattern.to_string());
        // A route's guest has a bucket of its own, unless it is told to share one.
        let own = vec![format!("default={name}")];
        let mut options = route.options.clone().or(limits.clone());
        options.buckets = options.buckets.or(Some(own));
        let file = route.guest.clone();
        let written = RouteOptions { options: options.clone(), ..route };
        let guest = options.guest(name, file, pattern, written);
        guests.push(guest.map_err(|error| failed(error.0))?);
    }
    let (mut patterns, mut names) = (HashMap::new(), HashSet::new());
    for guest in &guests {
        if guest.pattern.path != Paths::Nothing
            && let Some(other) = patterns.insert(guest.pattern.identity(), &guest.file)
        {
            return Err(ConfigError(format!(
                "two routes take the same requests, {}: to {} and to {}; change or remove one",
                guest.pattern,
                guest.file.display(),
                other.display()
            )));
        }
        if !names.insert(&guest.name) {
            return Err(ConfigError(format!(
                "two guests are named '{0}', which would make their state one; give one of them another, as in name = \"{0}-2\" (a guest without a name has that of its file)",
                guest.name
            )));
        }
    }
    let known = known(&guests);
    for guest in &mut guests {
        guest.buckets.know(&known);
    }
    Ok(guests)
}

/// What guests list. One that asks for another's bucket is told that it may not have it.
pub(super) fn known(guests: &[GuestConfig]) -> Arc<Known> {
    let names = guests.iter().flat_map(|guest| guest.buckets.names()).map(str::to_owned);
    let stored = guests.iter().flat_map(|guest| guest.buckets.stored());
    let stored = stored.map(|bucket| bucket.as_str().to_owned()).collect();
    Arc::new(Known { names: names.collect(), stored })
}

impl RouteOptions {
    /// The guest of this name.
    ///
    /// # Errors
    /// For a route that is incomplete, or a wrong value.
    pub(super) fn resolve(self, name: String) -> Result<GuestConfig, ConfigError> {
        let pattern = pattern(&self).map_err(ConfigError)?;
        let (options, file) = (self.options.clone(), self.guest.clone());
        options.guest(name, file, pattern, self)
    }
}

/// Checks keys of the settings of a release.
pub(super) fn check_release_keys<'a>(
    mut keys: impl Iterator<Item = &'a String>,
) -> Result<(), ConfigError> {
    let mut known = super::options::route_keys();
    // The component comes by itself, and the name is that of the guest.
    known.retain(|key| key != "guest" && key != "name");
    match keys.find(|key| !known.contains(key)) {
        Some(key) => Err(ConfigError(super::options::unknown("key of settings", key, &known))),
        None => Ok(()),
    }
}

fn pattern(route: &RouteOptions) -> Result<Pattern, String> {
    if route.internal == Some(true) {
        return match (&route.path, &route.prefix, &route.host) {
            (None, None, None) => Ok(Pattern { host: None, path: Paths::Nothing }),
            _ => Err("it is internal, for other guests alone; leave out its path, prefix and host, or internal".into()),
        };
    }
    let path = match (&route.path, &route.prefix) {
        (Some(path), None) => Paths::exact(path),
        (None, Some(prefix)) => Paths::prefix(prefix),
        (None, None) if route.host.is_some() => Paths::prefix("/"),
        (None, None) => {
            return Err("it takes no requests; give it a path, a prefix or a host, or internal = true for requests of other guests".into());
        }
        (Some(_), Some(_)) => return Err("give it a path or a prefix, not both".into()),
    };
    let text = route.path.as_deref().or(route.prefix.as_deref()).unwrap_or("/");
    if text.ends_with("/...") {
        return Err(format!("'{text}': write prefix = \"/api\" for a path and all below it"));
    }
    let dots = text.split('/').any(|segment| matches!(segment, "." | ".."));
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.contains(['?', '#', '*']);
    if !text.starts_with('/') || !plain || dots {
        return Err(format!(
            "'{text}' is no path; write one as clients send it, percent-encoded and beginning with a slash, such as /api"
        ));
    }
    let mut names = HashSet::new();
    for name in path.names() {
        // It becomes a part of a header's name.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(format!(
                "'{text}': the name of a segment is letters, digits, '-' and '_', as in /users/:id"
            ));
        }
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(format!("'{text}': two segments are named '{name}'"));
        }
    }
    let host = route.host.as_ref().map(|host| host.to_ascii_lowercase());
    if let Some(host) = &host {
        let authority: Result<http::uri::Authority, _> = host.parse();
        let plain = !host.contains('*') && !host.ends_with('.');
        if !plain || !authority.is_ok_and(|authority| authority.host() == host) {
            return Err(format!("'{host}' is no host; write one name, without a port or a star"));
        }
    }
    Ok(Pattern { host, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(text: &str) -> Result<Vec<GuestConfig>, ConfigError> {
        #[derive(Deserialize)]
        struct File {
            route: Vec<RouteOptions>,
        }
        let file: File = toml::from_str(text).unwrap();
        resolve(None, GuestOptions::defaults(), file.route)
    }

    #[test]
    fn each_route_has_buckets_limits_settings_and_environment_of_its_own() {
        let guests = routes(
            r#"
            [[route]]
            prefix = "/a"
            guest = "a.wasm"
            pool = 3
            env = { A = "1" }
            settings = { greeting = "hi" }

            [[route]]
            name = "b"
            host = "B.example.com"
            path = "/b"
            guest = "b.wasm"
            buckets = ["default=shared"]
            "#,
        )
        .unwrap();
        let [a, b] = guests.as_slice() else { panic!("{guests:?}") };
        assert_eq!((a.name.as_str(), a.limits.pool), ("a", Some(3)), "named after its file");
        assert_eq!((&*a.env["A"], &*a.settings["greeting"]), ("1", "hi"));
        assert_eq!(a.buckets.stored().map(|bucket| bucket.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!((b.name.as_str(), b.limits.pool), ("b", None));
        assert_eq!(b.pattern.to_string(), "b.example.com/b");
        assert_eq!(
            b.buckets.stored().map(|bucket| bucket.as_str()).collect::<Vec<_>>(),
            ["shared"]
        );
        assert!(b.env.is_empty() && b.settings.is_empty());
    }

    #[test]
    fn databases_are_in_the_folder_that_is_named_or_beside_the_store() {
        let text = "[[route]]\nguest = 'a.wasm'\npath = '/a'\nsqlite = ['default', 'both=all']\n";
        let mut guests = routes(text).unwrap();
        let guest = guests.first_mut().unwrap();
        let error = guest.find_databases(None).unwrap_err().to_string();
        assert!(error.contains("guest 'a'") && error.contains("sqlite-dir"), "{error}");
        guest.find_databases(Some(Path::new("/d"))).unwrap();
        let databases = format!("{:?}", guest.databases);
        assert!(databases.contains("/d/a/default.db") && databases.contains("/d/all.db"));
        let mut wrong = routes(&text.replace("'default'", "'x='")).unwrap();
        let error = wrong.first_mut().unwrap().find_databases(Some(Path::new("/d"))).unwrap_err();
        assert!(error.to_string().contains("NAME=SHARED"), "{error}");
    }

    #[test]
    fn routes_that_clash_or_say_nothing_are_errors() {
        for (text, part) in [
            ("[[route]]\nguest = 'a'\n", "takes no requests"),
            ("[[route]]\nguest = 'a'\npath = '/a'\nprefix = '/a'\n", "not both"),
            ("[[route]]\nguest = 'a'\npath = 'a'\n", "beginning with a slash"),
            ("[[route]]\nguest = 'a'\nhost = 'a:80'\n", "without a port"),
            ("[[route]]\nguest = 'a'\nhost = '*.a'\n", "a star"),
            ("[[route]]\nguest = 'a'\ninternal = true\nprefix = '/'\n", "for other guests alone"),
            ("[[route]]\nguest = 'a'\nprefix = '/a/...'\n", "all below it"),
            ("[[route]]\nguest = 'a'\nprefix = '/a b'\n", "percent-encoded"),
            ("[[route]]\nguest = 'a'\nprefix = '/a/:'\n", "name of a segment"),
            ("[[route]]\nguest = 'a'\nprefix = '/:a.b'\n", "name of a segment"),
            ("[[route]]\nguest = 'a'\npath = '/:a/:A'\n", "two segments"),
            (
                "[[route]]\nguest = 'a'\npath = '/:a'\n[[route]]\nguest = 'b'\npath = '/:b'\n",
                "same requests",
            ),
            ("[[route]]\nguest = 'a'\nprefix = '/a/../b'\n", "no path"),
            (
                "[[route]]\nguest = 'a'\npath = '/a'\nenv = { 'A=' = '1' }\n",
                "no name of a variable",
            ),
            (
                "[[route]]\nguest = 'a'\nprefix = '/a'\n[[route]]\nguest = 'b'\nprefix = '/a/'\n",
                "same requests",
            ),
            (
                "[[route]]\nname='x'\nguest = 'a'\npath = '/a'\n[[route]]\nname='x'\nguest = 'b'\npath = '/b'\n",
                "named 'x'",
            ),
            (
                "[[route]]\nguest = 'x/a.wasm'\npath = '/a'\n[[route]]\nguest = 'y/a.wasm'\npath = '/b'\n",
                "named 'a'",
            ),
            ("[[route]]\nguest = 'a'\npath = '/a'\npool = 0\n", "route 1: pool"),
            ("[[route]]\nguest = 'a'\npath = '/a'\ncpu-weight = 0\n", "cpu-weight: from 1"),
            ("[[route]]\nguest = 'a'\npath = '/a'\nrate-limit = 0\n", "rate-limit: at least 1"),
            ("[[route]]\nguest = 'a'\npath = '/a'\nrate-burst = 5\n", "only with a rate-limit"),
            ("[[route]]\nguest = 'a'\npath = '/a'\noutgoing-hosts = ['http://x']\n", "is no host"),
            ("[[route]]\nguest = 'a'\npath = '/a'\nsqlite-size = '0'\n", "sqlite-size: more than"),
        ] {
            let error = routes(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
