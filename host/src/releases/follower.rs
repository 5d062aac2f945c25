//! Following the store: what was deployed anywhere runs here soon after.
//!
//! Every so often one small read asks for the next entry of the log. What it says is loaded and tried off the threads
//! that serve, and exchanged in the registry. A host that cannot run a release says why in its record, and goes on
//! with what it has.
//!
//! **When requests are held.** While its session is alive, others know of this host and wait for it. When the session
//! may have ended (the process was frozen, or the store was away), others no longer do. So requests are answered for a
//! part of a session's life after it was kept alive, and wait after that until the host has a session again and runs
//! what the log says, or finds that the store is away: then it goes on with what it has.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tally_state::Handle;
use tokio::{sync::Notify, task::JoinSet};

use super::{
    disk::{Disk, Running},
    hosts::{Failed, LIFE, Record, Session},
    model::{Change, Head, Release, now},
    store::{Error, Look, Store},
    stored::Stored,
};
use crate::{
    config::{Config, GuestConfig, ReleaseConfig, ReleaseSettings},
    registry::{Guest, Path, Pattern, Routes, Table},
    runtime::{Fetch, Runtime, Source},
};

/// How often a session is kept alive.
const KEEP_EVERY: Duration = Duration::from_secs(1);

/// How long after it was kept alive a session is relied on: what is left of its life is for clocks that go at
/// different rates, and for what is on its way.
const RELIED_ON: Duration = Duration::from_secs(4);

/// Longest time for one exchange with the store.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pause after an exchange that failed: a connection that was cut is made anew by the next one.
const PAUSE: Duration = Duration::from_millis(50);

/// So many pauses of failures in a row are a store that is away.
const MOST_FAILURES: u32 = 20;

/// Releases that are being loaded at once.
const MOST_AT_ONCE: usize = 4;

/// How often it is tried again to get what could not be had.
const RETRY: Duration = Duration::from_secs(2);

/// Guests up to which each release is loaded and tried when it comes. With more, only those are that are in use.
const FEW: usize = 32;

/// Earlier releases that are tried at the start where the current one cannot run.
const MOST_FALLBACKS: usize = 3;

/// The releases that this host runs, and the store's.
pub(crate) struct Releases {
    pub(super) store: Store,
    pub(super) runtime: Arc<Runtime>,
    pub(super) table: Arc<Table>,
    pub(super) state: Handle,
    pub(super) config: ReleaseConfig,
    /// Guests of the file of settings.
    pub(super) files: HashMap<String, GuestConfig>,
    /// What does not change of its record.
    me: Record,
    /// Where what runs is kept, if it is.
    disk: Option<Disk>,
    inner: Mutex<Inner>,
    /// Told when there is something to look for.
    pub(super) kick: Notify,
}

#[derive(Default)]
struct Inner {
    /// The last entry of the log that was seen.
    seen: u64,
    /// What each guest is to run.
    wanted: HashMap<String, Wanted>,
    /// Releases that run. Other guests are as the file has them.
    running: HashMap<String, Release>,
    /// Counts changes of what runs.
    changes: u64,
    /// Guests that may be due: few, of thousands.
    pending: BTreeSet<String>,
    /// Guests that are at work on.
    busy: BTreeSet<String>,
    failed: BTreeMap<String, Failure>,
    /// Why the store cannot be followed, if it cannot.
    away: Option<String>,
    /// The session that may be listed.
    session: Option<String>,
}

/// What a guest is to run.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// The number of the entry that says so, and its revision.
    number: u64,
    revision: u64,
    release: Option<Release>,
}

impl Wanted {
    fn of(head: Head) -> Self {
        Self { number: head.number, revision: head.revision, release: head.release }
    }
}

/// Why a release does not run.
#[derive(Clone, Debug)]
struct Failure {
    /// Its number; 0 for what the file has.
    release: u64,
    reason: String,
    /// When to try again.
    retry: Option<Instant>,
}

/// Why a release does not run, and whether that may pass by itself.
pub(super) struct CannotRun {
    pub(super) reason: String,
    pub(super) may_pass: bool,
}

impl CannotRun {
    pub(super) fn certainly(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), may_pass: false }
    }

    fn for_now(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), may_pass: true }
    }
}

/// A guest that was made for a release.
type Made = (GuestConfig, Arc<Guest>, Release);

/// A session, and what is known of it.
struct Live {
    session: Session,
    record: Record,
    kept_at: Instant,
    /// Whether this host has run what the log said since the session began.
    has_caught_up: bool,
}

/// What a host knows at its start of what it is to run.
pub(crate) struct Found {
    revision: u64,
    heads: Vec<(String, Head)>,
}

impl Found {
    /// Nothing: the store cannot be read.
    pub(crate) fn nothing() -> Self {
        Self { revision: 0, heads: Vec::new() }
    }

    /// What ran here last, for a store that is away. `None` where nothing is kept. Blocks.
    pub(crate) fn kept(dir: Option<&std::path::Path>) -> Option<Self> {
        let heads = Disk::new(dir?).running()?.into_iter().map(|(name, release)| {
            // Whatever the log says of it comes later.
            (name, Head { release: Some(release), ..Head::default() })
        });
        // The log is read from its beginning, or all heads, when it is back.
        Some(Self { revision: 0, heads: heads.collect() })
    }

    /// Reads what the store has.
    pub(crate) async fn read(store: &Store) -> Result<Self, Error> {
        let (revision, heads) = store.all().await?;
        Ok(Self { revision, heads })
    }

    /// Whether a release of this guest runs.
    pub(crate) fn has(&self, guest: &str) -> bool {
        let place = self.heads.binary_search_by(|(name, _)| name.as_str().cmp(guest)).ok();
        place
            .and_then(|place| self.heads.get(place))
            .is_some_and(|(_, head)| head.release.is_some())
    }

    /// Whether any release runs.
    pub(crate) fn has_any(&self) -> bool {
        self.heads.iter().any(|(_, head)| head.release.is_some())
    }
}

impl Releases {
    /// A host that runs what the file says so far.
    pub(crate) fn new(
        store: Store,
        runtime: Arc<Runtime>,
        table: Arc<Table>,
        state: Handle,
        config: &Config,
        admin: &[SocketAddr],
    ) -> Arc<Self> {
        let files = config.guests.iter().map(|guest| (guest.name.clone(), guest.clone()));
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let admin: Vec<String> = admin.iter().map(ToString::to_string).collect();
        Arc::new(Self {
            store,
            runtime,
            table,
            state,
            config: config.releases.clone(),
            files: files.collect(),
            me: Record {
                host: format!("{}:{}", machine.trim(), std::process::id()),
                admin: admin.join(","),
                version: env!("CARGO_PKG_VERSION").into(),
                started: now(),
                ..Record::default()
            },
            disk: config.releases.dir.as_deref().map(Disk::new),
            inner: Mutex::default(),
            kick: Notify::new(),
        })
    }

    /// The routes that it exchanges.
    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this host says of itself now.
    pub(crate) fn record(&self) -> Record {
        let inner = self.inner();
        let loading = inner.pending.iter().filter(|name| inner.is_due(name)).chain(&inner.busy);
        let failed = inner.failed.iter().map(|(name, failure)| {
            let reason = failure.reason.clone();
            (name.clone(), Failed { release: failure.release, reason })
        });
        Record {
            seen: inner.seen,
            loading: loading.cloned().collect::<BTreeSet<_>>().into_iter().collect(),
            failed: failed.collect(),
            ..self.me.clone()
        }
    }

    /// The release of a guest that this host runs.
    pub(crate) fn running(&self, guest: &str) -> Option<u64> {
        self.inner().running.get(guest).map(|release| release.number)
    }

    /// Why the store cannot be followed, if it cannot.
    pub(crate) fn away(&self) -> Option<String> {
        self.inner().away.clone()
    }

    /// Guests for the releases that the store has at the start. What cannot run is as the file has it, which is
    /// asked for by name.
    pub(crate) async fn start(
        self: &Arc<Self>,
        found: Found,
        load_ahead: usize,
    ) -> (Vec<(Pattern, Arc<Guest>)>, Vec<String>) {
        let (mut routes, mut fallen_back) = (Vec::new(), Vec::new());
        self.inner().seen = found.revision;
        // Of two that take the same requests, the one that was there first.
        let mut others = Taken::of(&self.files, &found);
        let mut heads = found.heads;
        heads.sort_by_key(|(_, head)| head.revision);
        for (name, head) in heads {
            self.inner().wanted.insert(name.clone(), Wanted::of(head.clone()));
            let Some(release) = &head.release else { continue };
            let is_loaded = routes.len() < load_ahead;
            let made = self.make(&name, release, is_loaded).await;
            let made = match made.and_then(|made| others.check(made)) {
                Ok(made) => Some(made),
                Err(cannot) => {
                    tracing::error!(
                        guest = name,
                        release = release.number,
                        "the release cannot run here: {}",
                        cannot.reason
                    );
                    self.inner().note_failure(&name, release.number, cannot);
                    let earlier = self.make_earlier(&name, &head).await;
                    earlier.and_then(|made| others.check(made).ok())
                }
            };
            match made {
                Some((config, guest, release)) => {
                    routes.push((config.pattern, guest));
                    self.inner().running.insert(name, release);
                }
                None => fallen_back.push(name),
            }
        }
        (routes, fallen_back)
    }

    /// The last release before the current one that can run.
    async fn make_earlier(self: &Arc<Self>, name: &str, head: &Head) -> Option<Made> {
        let current = head.release.as_ref().map_or(0, |release| release.number);
        let earlier = head.kept.iter().rev().filter(|kept| kept.number < current);
        for kept in earlier.take(MOST_FALLBACKS) {
            let change = self.store.entry(kept.revision).await.ok().flatten();
            if let Some(release) = change.and_then(|change| change.release)
                && let Ok(made) = self.make(name, &release, true).await
            {
                tracing::warn!(
                    guest = name,
                    release = kept.number,
                    "goes on with an earlier release"
                );
                return Some(made);
            }
        }
        None
    }

    /// A new guest for a release.
    async fn make(
        self: &Arc<Self>,
        name: &str,
        release: &Release,
        load: bool,
    ) -> Result<Made, CannotRun> {
        let config = self.configure(name, release)?;
        let stored = Stored::new(self.store.clone(), release.component.clone(), self.disk.clone());
        let guest = self.guest_of(&config, &stored, None);
        if load {
            self.load(&guest, &stored).await?;
        }
        Ok((config, guest, release.clone()))
    }

    fn configure(&self, name: &str, release: &Release) -> Result<GuestConfig, CannotRun> {
        self.config
            .guest(name, self.files.get(name), &release.settings)
            .map_err(CannotRun::certainly)
    }

    pub(super) fn guest_of(
        &self,
        config: &GuestConfig,
        component: &Arc<Stored>,
        before: Option<&Guest>,
    ) -> Arc<Guest> {
        let (limits, settings) = (config.limits.clone(), config.for_guest());
        let component: Arc<dyn Fetch> = component.clone();
        let keep = config.keep_loaded;
        Guest::from_elsewhere(&self.runtime, component, limits, settings, keep, before)
    }

    async fn load(&self, guest: &Arc<Guest>, stored: &Arc<Stored>) -> Result<(), CannotRun> {
        let bytes = stored.read().await.map_err(CannotRun::for_now)?;
        let source = Source::Elsewhere(stored.clone());
        let deployed = guest.deploy(bytes, source, &self.state).await;
        deployed.map_err(CannotRun::certainly)?;
        Ok(())
    }

    /// Says that this host serves nothing any more, so that others do not wait for it.
    pub(crate) async fn end(&self) {
        let session = self.inner().session.take();
        if let Some(session) = session
            && let Err(error) = self.store.end_session(&session).await
        {
            tracing::debug!(%error, "others learn later that this host has ended");
        }
    }

    /// Follows the store until dropped.
    pub(crate) async fn follow(self: Arc<Self>) {
        let mut live: Option<Live> = None;
        let mut at_work = JoinSet::new();
        let mut failures = 0_u32;
        let mut kept = None;
        loop {
            let started = Instant::now();
            let pause = match self.look(&mut live).await {
                Ok(()) => {
                    failures = 0;
                    if self.inner().away.take().is_some() {
                        tracing::info!("releases are followed again");
                    }
                    self.config.follow_interval
                }
                Err(error) => {
                    let lost = started.elapsed().as_millis() / PAUSE.as_millis();
                    // A process that was frozen has not waited.
                    let lost = u32::try_from(lost).unwrap_or(u32::MAX).clamp(1, MOST_FAILURES / 2);
                    failures = failures.saturating_add(lost);
                    if failures >= MOST_FAILURES {
                        self.go_on_without(&error);
                        self.config.follow_interval.max(PAUSE)
                    } else {
                        PAUSE
                    }
                }
            };
            for name in self.begin(MOST_AT_ONCE.saturating_sub(at_work.len())) {
                at_work.spawn(Arc::clone(&self).bring(name));
            }
            self.keep_running(&mut kept).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.kick.notified() => {}
                // Others want to know at once.
                Some(_) = at_work.join_next(), if !at_work.is_empty() => {}
            }
        }
    }

    /// Keeps what runs on the disk, if that has changed.
    async fn keep_running(&self, kept: &mut Option<u64>) {
        let Some(disk) = self.disk.clone() else { return };
        let running: Running = {
            let inner = self.inner();
            if *kept == Some(inner.changes) || inner.seen == 0 {
                return;
            }
            *kept = Some(inner.changes);
            inner.running.iter().map(|(name, release)| (name.clone(), release.clone())).collect()
        };
        let keeping = tokio::task::spawn_blocking(move || disk.keep_running(&running));
        // Logged where it fails.
        let _ = keeping.await;
    }

    fn go_on_without(&self, error: &Error) {
        // Only what is known to be older has to wait, and that is not known now.
        self.table.is_current_until(None);
        if self.inner().away.replace(error.to_string()).is_none() {
            tracing::warn!(
                "releases cannot be followed, and this host goes on with what it has: {error}"
            );
        }
    }

    /// Keeps the session alive, and looks for what is new.
    async fn look(self: &Arc<Self>, live: &mut Option<Live>) -> Result<(), Error> {
        let now = Instant::now();
        let record = self.record();
        if let Some(live) = live.as_mut()
            && (record != live.record || now.saturating_duration_since(live.kept_at) >= KEEP_EVERY)
            && within(self.store.keep_session(&mut live.session, &record)).await?
        {
            live.kept_at = now;
            live.record = record.clone();
        } else if live.as_ref().is_none_or(|live| {
            record != live.record || now.saturating_duration_since(live.kept_at) >= KEEP_EVERY
        }) {
            // It has ended, and others do not wait for this host.
            *live = None;
            self.table.is_current_until(Some(now));
            let session = within(self.store.begin_session(&record)).await?;
            self.inner().session = Some(session.key().to_owned());
            *live = Some(Live { session, record, kept_at: now, has_caught_up: false });
        }
        self.read_log().await?;
        if let Some(live) = live {
            live.has_caught_up |= self.record().loading.is_empty();
            if live.has_caught_up {
                self.table.is_current_until(Some(live.kept_at + RELIED_ON));
            }
        }
        Ok(())
    }

    async fn read_log(self: &Arc<Self>) -> Result<(), Error> {
        loop {
            let seen = self.inner().seen;
            match within(self.store.look(seen)).await? {
                Look::Entry(change) => self.inner().note(*change),
                Look::End { settled } if settled < seen => {
                    // Whoever made the last change has left it, or is at it.
                    within(self.store.settle()).await?;
                    return Ok(());
                }
                Look::End { .. } => return Ok(()),
                far => {
                    if let Look::Lost { settled } = far {
                        tracing::error!(
                            seen,
                            settled,
                            "the store has lost releases: this host goes on with what it runs; deploy again what is missing"
                        );
                    }
                    let (revision, heads) = self.store.all().await?;
                    let mut inner = self.inner();
                    for (name, head) in heads {
                        inner.pending.insert(name.clone());
                        inner.wanted.insert(name, Wanted::of(head));
                    }
                    inner.seen = revision;
                }
            }
        }
    }

    /// Guests that are to be brought to another release, which are at work on from here on.
    fn begin(&self, most: usize) -> Vec<String> {
        let mut inner = self.inner();
        let revision = |name: &&String| inner.wanted.get(*name).map(|wanted| wanted.revision);
        let mut due: Vec<&String> =
            inner.pending.iter().filter(|name| inner.is_due(name)).collect();
        due.sort_by_key(revision);
        // Those that may change routes come one at a time, in the order of the log: all hosts have the same winner
        // where two want the same requests.
        let mut is_routing = inner.busy.iter().any(|name| inner.changes_settings(name));
        let due = due.into_iter().filter(|name| {
            let changes = inner.changes_settings(name);
            let waits = changes && is_routing;
            is_routing |= changes;
            !waits
        });
        let due: Vec<String> = due.take(most).cloned().collect();
        inner.busy.extend(due.iter().cloned());
        due
    }

    /// Brings a guest to the release that it is to run.
    async fn bring(self: Arc<Self>, name: String) {
        let (wanted, before) = {
            let inner = self.inner();
            let wanted = inner.wanted.get(&name).and_then(|wanted| wanted.release.clone());
            (wanted, inner.running.get(&name).cloned())
        };
        let started = Instant::now();
        let done = match &wanted {
            Some(release) => self.run(&name, release, before.as_ref()).await,
            None => self.return_to_file(&name).await,
        };
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let number = wanted.as_ref().map_or(0, |release| release.number);
        let mut inner = self.inner();
        inner.busy.remove(&name);
        match done {
            Ok(()) => {
                tracing::info!(
                    guest = name,
                    release = number,
                    milliseconds,
                    "runs another release"
                );
                inner.failed.remove(&name);
                inner.changes = inner.changes.saturating_add(1);
                match wanted {
                    Some(release) => inner.running.insert(name.clone(), release),
                    None => inner.running.remove(&name),
                };
                if !inner.is_due(&name) {
                    inner.pending.remove(&name);
                }
            }
            Err(cannot) => {
                let was = inner.failed.get(&name).map(|failure| failure.reason.as_str());
                if was != Some(&*cannot.reason) {
                    tracing::error!(
                        guest = name,
                        release = number,
                        "the release cannot run here, and the one before goes on: {}",
                        cannot.reason
                    );
                }
                inner.note_failure(&name, number, cannot);
            }
        }
    }

    async fn run(
        self: &Arc<Self>,
        name: &str,
        release: &Release,
        before: Option<&Release>,
    ) -> Result<(), CannotRun> {
        let config = self.configure(name, release)?;
        let routes = self.table.routes();
        clash(&routes, &config)?;
        let stored = Stored::new(self.store.clone(), release.component.clone(), self.disk.clone());
        let current = routes.named(name);
        let keeps_settings = release.settings == settings_of(before);
        let is_used = current.is_some_and(|current| current.release().is_loaded());
        let loads = is_used || config.keep_loaded || routes.iter().count() <= FEW;
        if let Some(current) = current.filter(|_| keeps_settings) {
            match loads {
                true => self.load(current, &stored).await?,
                false => current.exchange(Source::Elsewhere(stored)).await,
            }
            return Ok(());
        }
        let guest = self.guest_of(&config, &stored, current.map(|current| &**current));
        if loads {
            self.load(&guest, &stored).await?;
        }
        self.table.exchange(name, Some((config.pattern, guest)));
        Ok(())
    }

    /// Has a guest be as the file of settings has it, or not be there at all.
    async fn return_to_file(&self, name: &str) -> Result<(), CannotRun> {
        let Some(config) = self.files.get(name) else {
            self.table.exchange(name, None);
            return Ok(());
        };
        let (runtime, config) = (Arc::clone(&self.runtime), config.clone());
        let routes = self.table.routes();
        clash(&routes, &config)?;
        let pattern = config.pattern.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let (path, limits) = (config.file.clone(), config.limits.clone());
            Guest::from_file(&runtime, path, limits, config.for_guest(), config.keep_loaded)
        });
        let (guest, problem) = looking.await.map_err(CannotRun::for_now)?;
        if let Some(problem) = problem {
            return Err(CannotRun::for_now(problem));
        }
        let guest = Arc::new(guest);
        guest.try_start(&self.state).await.map_err(CannotRun::certainly)?;
        self.table.exchange(name, Some((pattern, guest)));
        Ok(())
    }
}

/// What a release says of settings; nothing where there is none.
fn settings_of(release: Option<&Release>) -> ReleaseSettings {
    release.map(|release| release.settings.clone()).unwrap_or_default()
}

/// Routes that guests have at the start.
struct Taken(HashMap<(Option<String>, bool, String), String>);

impl Taken {
    /// Those of guests of the file that are not deployed.
    fn of(files: &HashMap<String, GuestConfig>, found: &Found) -> Self {
        let guests = files.values().filter(|guest| !found.has(&guest.name));
        let guests = guests.filter(|guest| guest.pattern.path != Path::Nothing);
        Self(guests.map(|guest| (identity(&guest.pattern), guest.name.clone())).collect())
    }

    /// Takes the route of a guest, unless another has it.
    fn check(&mut self, made: Made) -> Result<Made, CannotRun> {
        let pattern = &made.0.pattern;
        if pattern.path == Path::Nothing {
            return Ok(made);
        }
        match self.0.entry(identity(pattern)) {
            Entry::Vacant(free) => {
                free.insert(made.0.name.clone());
                Ok(made)
            }
            Entry::Occupied(other) => Err(takes_the_same(other.get(), pattern)),
        }
    }
}

fn identity(pattern: &Pattern) -> (Option<String>, bool, String) {
    let (host, is_exact, path) = pattern.identity();
    (host.map(str::to_owned), is_exact, path)
}

fn takes_the_same(other: &str, pattern: &Pattern) -> CannotRun {
    // It may go away.
    CannotRun::for_now(format!(
        "guest '{other}' takes the same requests, {pattern}; give one of them another route"
    ))
}

/// Two guests cannot take the same requests.
pub(super) fn clash(routes: &Routes, config: &GuestConfig) -> Result<(), CannotRun> {
    let is_internal = config.pattern.path == Path::Nothing;
    let other = routes.iter().find(|(pattern, guest)| {
        **guest.name() != config.name && pattern.identity() == config.pattern.identity()
    });
    match other.filter(|_| !is_internal) {
        Some((pattern, other)) => Err(takes_the_same(other.name(), pattern)),
        None => Ok(()),
    }
}

impl Inner {
    fn note(&mut self, change: Change) {
        self.seen = self.seen.saturating_add(1);
        self.pending.insert(change.guest.clone());
        let (number, revision) = (change.number, self.seen);
        let entry = self.wanted.entry(change.guest).or_default();
        if entry.number < number {
            *entry = Wanted { number, revision, release: change.release };
        }
    }

    fn note_failure(&mut self, name: &str, release: u64, cannot: CannotRun) {
        let retry = cannot.may_pass.then(|| Instant::now() + RETRY);
        // Tried again, or left alone until another release comes.
        self.pending.insert(name.to_owned());
        self.failed.insert(name.to_owned(), Failure { release, reason: cannot.reason, retry });
    }

    /// Whether a guest is to have other settings than it has, its route among them.
    fn changes_settings(&self, name: &str) -> bool {
        let wanted = self.wanted.get(name).and_then(|wanted| wanted.release.as_ref());
        let running = self.running.get(name);
        wanted.is_some() != running.is_some() || settings_of(wanted) != settings_of(running)
    }

    /// Whether a guest is to run another release than it does, and nothing keeps it from that.
    fn is_due(&self, name: &str) -> bool {
        let Some(wanted) = self.wanted.get(name) else { return false };
        let wanted = wanted.release.as_ref().map_or(0, |release| release.number);
        let running = self.running.get(name).map_or(0, |release| release.number);
        if self.busy.contains(name) {
            return false;
        }
        match self.failed.get(name) {
            Some(failure) if failure.release == wanted => {
                failure.retry.is_some_and(|retry| retry <= Instant::now())
            }
            // One that failed before is forgotten when this one runs.
            Some(_) => true,
            None => wanted != running,
        }
    }
}

/// An exchange with the store, within the time for it.
async fn within<T>(exchange: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(done) => done,
        Err(_) => Err(Error::Store(tally_state::Error::Unknown(
            format!("no answer within {PATIENCE:?}").into(),
        ))),
    }
}

// A session is relied on for less than it lives.
const _: () = assert!(RELIED_ON.as_millis() < LIFE.as_millis());
