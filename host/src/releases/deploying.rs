//! What people ask for: to deploy, to go back, to remove, and to know where a change runs.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{
    follower::{CannotRun, Releases, clash},
    hosts::Record,
    model::{
        Change, Component, Head, Kind, MAX_NAME_BYTES, MAX_NOTE_BYTES, Release, now, random_id,
    },
    store::Error,
    stored::Stored,
};
use crate::config::ReleaseSettings;

/// Longest time that an answer waits for a change to run everywhere.
const MOST_WAIT: Duration = Duration::from_secs(60);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(30);

/// What is asked for besides the name of the guest.
#[derive(Debug, Default)]
pub(crate) struct Deployment {
    /// Settings that are not to be those of the release before.
    pub(crate) settings: ReleaseSettings,
    /// Who asks.
    pub(crate) who: String,
    pub(crate) note: String,
    /// The last entry of the guest's history that whoever asks has seen.
    pub(crate) base: Option<u64>,
}

/// A change that was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) revision: u64,
    pub(crate) change: Change,
    /// Version of the component that ran before.
    pub(crate) previous: Option<String>,
    pub(crate) milliseconds: u64,
    /// Notes for whoever deploys it.
    pub(crate) notes: Vec<String>,
}

/// What a host has made of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// It runs there.
    Runs,
    /// It is being loaded.
    Loading,
    /// The host has not seen it yet.
    Behind,
    /// It cannot run there.
    Failed(String),
}

/// A change on its way to all hosts.
#[derive(Debug)]
pub(crate) struct Rollout {
    pub(crate) hosts: Vec<(Record, Where)>,
}

impl Rollout {
    /// Whether no host is left that has not made something of it.
    pub(crate) fn is_over(&self) -> bool {
        self.hosts.iter().all(|(_, place)| matches!(place, Where::Runs | Where::Failed(_)))
    }
}

impl Releases {
    /// Takes a component into the store. A release is to name it within a day.
    pub(crate) async fn upload(&self, bytes: &Bytes) -> Result<Component, Error> {
        self.store.upload(bytes).await
    }

    /// Tries a release on this host, and has all hosts run it.
    pub(crate) async fn deploy(
        &self,
        name: &str,
        component: Component,
        deployment: Deployment,
    ) -> Result<Made, Error> {
        check_name(name)?;
        let (head, base) = self.base(name, &deployment).await?;
        let before = head.release.as_ref().map(|release| release.settings.clone());
        let settings = deployment.settings.clone().or(before.unwrap_or_default());
        if head.release.is_none() && !self.files.contains_key(name) && !settings.has_route() {
            return Err(Error::Absent(self.absent(name)));
        }
        let release = Release { number: base.saturating_add(1), component, settings };
        self.change(name, &head, deployment, Kind::Deploy, Some(release)).await
    }

    /// Has all hosts run an earlier release again: the one before, or that of a number.
    pub(crate) async fn roll_back(
        &self,
        name: &str,
        to: Option<u64>,
        deployment: Deployment,
    ) -> Result<Made, Error> {
        let (head, _) = self.base(name, &deployment).await?;
        let kept = match to {
            Some(number) => head.kept.iter().find(|kept| kept.number == number),
            None => head.before(),
        };
        let Some(kept) = kept else {
            let numbers: Vec<String> =
                head.kept.iter().map(|kept| kept.number.to_string()).collect();
            return Err(Error::Refused(match (to, numbers.is_empty()) {
                (_, true) => format!("guest '{name}' has no release to go back to"),
                (Some(to), false) => format!(
                    "release {to} of guest '{name}' is not kept; there is {}",
                    numbers.join(", ")
                ),
                (None, false) => format!(
                    "guest '{name}' has no earlier release that is kept; there is {}; `tally remove` returns to tally.toml",
                    numbers.join(", ")
                ),
            }));
        };
        if head.release.as_ref().is_some_and(|release| release.number == kept.number) {
            let text = format!("release {} of guest '{name}' runs already", kept.number);
            return Err(Error::Refused(text));
        }
        let release = self.store.entry(kept.revision).await?.and_then(|entry| entry.release);
        self.change(name, &head, deployment, Kind::Rollback, release).await
    }

    /// Has a guest be as `tally.toml` has it, or not be there at all.
    pub(crate) async fn remove(&self, name: &str, deployment: Deployment) -> Result<Made, Error> {
        let (head, _) = self.base(name, &deployment).await?;
        if head.release.is_none() {
            return Err(match self.files.contains_key(name) {
                true => Error::Refused(format!(
                    "no release of guest '{name}' is deployed: it is as tally.toml has it"
                )),
                false => Error::Absent(self.absent(name)),
            });
        }
        self.change(name, &head, deployment, Kind::Remove, None).await
    }

    /// The head of a guest.
    pub(crate) async fn head(&self, name: &str) -> Result<Head, Error> {
        self.store.head(name).await
    }

    /// All guests that were ever deployed.
    pub(crate) async fn heads(&self) -> Result<Vec<(String, Head)>, Error> {
        Ok(self.store.all().await?.1)
    }

    /// The last entries of a guest's history, the newest first.
    pub(crate) async fn history(&self, name: &str, most: usize) -> Result<Vec<Change>, Error> {
        let entries = self.store.history(name, most).await?;
        match entries.is_empty() && self.table.routes().named(name).is_none() {
            true => Err(Error::Absent(format!("there is no guest named '{name}'"))),
            false => Ok(entries),
        }
    }

    /// All hosts that serve.
    pub(crate) async fn hosts(&self) -> Result<Vec<Record>, Error> {
        self.store.hosts().await
    }

    /// Whether the file of settings has this guest.
    pub(crate) fn is_in_file(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Where a change runs.
    pub(crate) async fn rollout(&self, revision: u64) -> Result<Option<Rollout>, Error> {
        let Some(change) = self.store.entry(revision).await? else { return Ok(None) };
        let release = change.release.as_ref().map_or(0, |release| release.number);
        let place = |record: &Record| {
            if record.seen < revision {
                return Where::Behind;
            }
            if record.loading.contains(&change.guest) {
                return Where::Loading;
            }
            match record.failed.get(&change.guest) {
                Some(failed) if failed.release == release => Where::Failed(failed.reason.clone()),
                _ => Where::Runs,
            }
        };
        let mut hosts = self.store.hosts().await?;
        let own = self.record();
        // Whose session may just have ended.
        if !hosts.iter().any(|host| (&host.host, &host.admin) == (&own.host, &own.admin)) {
            hosts.push(own);
        }
        let hosts = hosts.into_iter().map(|record| (place(&record), record));
        Ok(Some(Rollout { hosts: hosts.map(|(place, record)| (record, place)).collect() }))
    }

    /// Waits until a change runs on all hosts, or these have said why not, for so long.
    pub(crate) async fn wait(&self, revision: u64) -> Result<Rollout, Error> {
        let until = Instant::now() + MOST_WAIT;
        loop {
            let rollout = self.rollout(revision).await?;
            let rollout = rollout.unwrap_or(Rollout { hosts: Vec::new() });
            if rollout.is_over() || Instant::now() >= until {
                return Ok(rollout);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The head of a guest after all that was done so far, if nothing was done since what whoever asks has seen.
    async fn base(&self, name: &str, deployment: &Deployment) -> Result<(Head, u64), Error> {
        if deployment.note.len() > MAX_NOTE_BYTES {
            return Err(Error::Refused(format!("a note has at most {MAX_NOTE_BYTES} bytes")));
        }
        self.store.settle().await?;
        let head = self.store.head(name).await?;
        match deployment.base {
            Some(base) if base != head.number => Err(self.store.conflict(name, &head).await?),
            _ => Ok((head.clone(), head.number)),
        }
    }

    async fn change(
        &self,
        name: &str,
        head: &Head,
        deployment: Deployment,
        kind: Kind,
        release: Option<Release>,
    ) -> Result<Made, Error> {
        let started = Instant::now();
        let notes = match &release {
            Some(release) => self.try_here(name, release).await?,
            None => Vec::new(),
        };
        let (id, time) = (random_id(), now());
        let made = self.store.append(name, head.number, |head| {
            Ok(Change {
                guest: name.to_owned(),
                number: head.number.saturating_add(1),
                previous: head.revision,
                id: id.clone(),
                kind,
                time,
                who: deployment.who.clone(),
                note: deployment.note.clone(),
                release: release.clone(),
                keep: self.config.keep,
            })
        });
        let (revision, change) = made.await?;
        self.kick.notify_one();
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let previous = head.release.as_ref().map(|release| release.component.version().to_owned());
        tracing::info!(
            guest = name, revision, number = change.number, %kind, who = change.who,
            release = change.release.as_ref().map_or(0, |release| release.number), "deployed"
        );
        Ok(Made { revision, change, previous, milliseconds, notes })
    }

    /// Loads a release as this host would run it, and makes instances of it.
    async fn try_here(&self, name: &str, release: &Release) -> Result<Vec<String>, Error> {
        let cannot = |cannot: CannotRun| Error::Refused(cannot.reason);
        let config = self
            .config
            .guest(name, self.files.get(name), &release.settings)
            .map_err(|error| Error::Refused(error.to_string()))?;
        let routes = self.table.routes();
        clash(&routes, &config).map_err(cannot)?;
        let stored = Stored::new(self.store.clone(), release.component.clone(), None);
        let current = routes.named(name);
        let guest = self.guest_of(&config, &stored, current.map(|current| &**current));
        let bytes = stored.read().await?;
        let tried = guest.try_component(bytes, &self.state).await;
        tried.map_err(|error| Error::Refused(error.to_string()))
    }

    /// What is said of a guest that there is not.
    fn absent(&self, name: &str) -> String {
        const MOST_NAMED: usize = 20;
        let routes = self.table.routes();
        let names = routes.iter().map(|(_, guest)| &**guest.name());
        let known = names.take(MOST_NAMED).collect::<Vec<_>>().join("', '");
        let more = if routes.iter().count() > MOST_NAMED { " and others" } else { "" };
        format!(
            "there is no guest named '{name}'; there is '{known}'{more}; for a new guest, say which requests it takes with --prefix, --path or --host"
        )
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let is_fit =
        !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(char::is_control);
    match is_fit {
        true => Ok(()),
        false => Err(Error::Refused(format!(
            "a guest's name has 1 to {MAX_NAME_BYTES} bytes, without control characters"
        ))),
    }
}
