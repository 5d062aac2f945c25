//! Which hosts there are, and what each of them runs.
//!
//! A host has a **session**: a record with a time to live that it keeps alive, under a name that is never used again
//! once it has ended. The list of sessions is one key. A host begins a session before it looks for what to run, and
//! is listed from then on until its record is gone; so whoever makes a change and reads the list afterwards finds
//! every host that may not have seen the change.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tally_state::Swapped;

use super::{
    model::random_id,
    store::{Error, Store, parse, to_bytes},
};

/// How long a record lives that is not kept alive: a deployment waits so long for a host that has died.
pub(super) const LIFE: Duration = Duration::from_secs(5);

/// The list of sessions.
const LIST: &str = "hosts";

/// What a host says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The machine's name and the process.
    pub(crate) host: String,
    /// Where its admin listener is.
    pub(crate) admin: String,
    /// The program's version.
    pub(crate) version: String,
    /// When it was started, in milliseconds since 1970.
    pub(crate) started: u64,
    /// The last entry of the log that it has seen. It runs what that says, but for what follows.
    pub(crate) seen: u64,
    /// Guests whose release it is loading.
    #[serde(default)]
    pub(crate) loading: Vec<String>,
    /// Guests whose release it cannot run, and why.
    #[serde(default)]
    pub(crate) failed: BTreeMap<String, Failed>,
}

/// Why a host does not run a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    /// The release.
    pub(crate) release: u64,
    pub(crate) reason: String,
}

/// A session of this host.
pub(super) struct Session {
    key: String,
    /// The record as it is in the store.
    written: Bytes,
}

impl Session {
    /// Its name.
    pub(super) fn key(&self) -> &str {
        &self.key
    }
}

impl Store {
    /// Begins a session.
    pub(super) async fn begin_session(&self, record: &Record) -> Result<Session, Error> {
        let key = format!("host:{}", random_id());
        let written = to_bytes(record);
        self.state.set_for(&self.bucket, &key, written.clone(), Some(LIFE)).await?;
        let mut seen = self.state.get(&self.bucket, LIST).await?;
        loop {
            let mut keys: Vec<String> = match &seen {
                Some(seen) => parse(LIST, seen)?,
                None => Vec::new(),
            };
            // A change that got no answer may have been made.
            if keys.contains(&key) {
                break;
            }
            // Sessions that have ended come not back: their records are kept alive only while they are there.
            let values = self.state.get_many(&self.bucket, &keys, usize::MAX).await?;
            let mut alive = values.iter();
            keys.retain(|_| alive.next().is_some_and(Option::is_some));
            keys.push(key.clone());
            match self.state.swap(&self.bucket, LIST, seen, to_bytes(&keys)).await? {
                Swapped::Yes => break,
                Swapped::No(now) => seen = now,
            }
        }
        Ok(Session { key, written })
    }

    /// Keeps a session alive, and says what has changed; whether it had not ended.
    pub(super) async fn keep_session(
        &self,
        session: &mut Session,
        record: &Record,
    ) -> Result<bool, Error> {
        let next = to_bytes(record);
        if next != session.written {
            let before = Some(session.written.clone());
            match self.state.swap(&self.bucket, &session.key, before, next.clone()).await? {
                Swapped::Yes => session.written = next,
                // One that got no answer before.
                Swapped::No(Some(now)) if now == next => session.written = next,
                Swapped::No(_) => return Ok(false),
            }
        }
        Ok(self.state.expire(&self.bucket, &session.key, Some(LIFE)).await?)
    }

    /// Ends a session: the host serves nothing any more.
    pub(super) async fn end_session(&self, key: &str) -> Result<(), Error> {
        Ok(self.state.delete(&self.bucket, key).await?)
    }

    /// All hosts.
    pub(crate) async fn hosts(&self) -> Result<Vec<Record>, Error> {
        let Some(list) = self.state.get(&self.bucket, LIST).await? else { return Ok(Vec::new()) };
        let keys: Vec<String> = parse(LIST, &list)?;
        let values = self.state.get_many(&self.bucket, &keys, usize::MAX).await?;
        let found = keys.iter().zip(values).filter_map(|(key, value)| Some((key, value?)));
        let mut hosts: Vec<Record> =
            found.map(|(key, value)| parse(key, &value)).collect::<Result<_, _>>()?;
        hosts.sort_by(|a, b| (&a.host, &a.admin).cmp(&(&b.host, &b.admin)));
        Ok(hosts)
    }
}
