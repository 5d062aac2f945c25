//! What each command asks of the store, and what it prints.

use std::{num::NonZeroUsize, os::unix::ffi::OsStringExt as _, time::Duration};

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use serde::Serialize;
use tally_state::{Bounded, Bucket, Handle, TimeToLive};

use super::{
    arguments::Command,
    output::{Encoded, Output, one_line},
};
use crate::config::Span;

/// Keys that one call deletes: as many as the state layer takes.
const DELETED_AT_ONCE: usize = 1_000;

/// Values that are read at once for a listing: at their largest, some megabytes.
const VALUES_AT_ONCE: usize = 16;

/// A command's store and bucket, and where it prints.
pub(super) struct Session {
    pub(super) handle: Handle,
    pub(super) bucket: Bucket,
    pub(super) output: Output,
}

/// A key, and what else is told of it.
#[derive(Serialize)]
struct About<'a, T> {
    bucket: &'a str,
    key: &'a str,
    #[serde(flatten)]
    rest: T,
}

#[derive(Serialize)]
struct Value<'a> {
    #[serde(flatten)]
    value: Encoded<'a>,
    /// In milliseconds; none is for ever.
    ttl: Option<u64>,
}

#[derive(Serialize)]
struct Set {
    set: bool,
}

#[derive(Serialize)]
struct Count {
    count: i64,
    applied: bool,
}

#[derive(Serialize)]
struct Ttl {
    exists: bool,
    ttl: Option<u64>,
}

#[derive(Serialize)]
struct Deleted<'a> {
    bucket: &'a str,
    deleted: &'a [String],
}

/// An entry of a listing without values.
#[derive(Serialize)]
struct Nothing {}

impl Session {
    pub(super) fn new(handle: Handle, bucket: Bucket, output: Output) -> Self {
        Self { handle, bucket, output }
    }

    /// Runs a command, and prints its answer.
    pub(super) async fn run(mut self, command: Command) -> Result<()> {
        let done = match command {
            Command::Get { key } => self.get(&key).await,
            Command::Set { key, value, ttl, if_absent } => {
                let (value, ttl) = (value.into_vec().into(), ttl.map(|ttl| ttl.0));
                self.set(&key, value, ttl, if_absent).await
            }
            Command::Delete { keys } => self.delete(&keys).await,
            Command::Incr { key, by, min: None, max: None, ttl } => {
                self.increment(&key, by, ttl.map(|ttl| ttl.0)).await
            }
            Command::Incr { key, by, min, max, ttl } => {
                let bounds = min.unwrap_or(i64::MIN)..=max.unwrap_or(i64::MAX);
                self.increment_within(&key, by, bounds, ttl.map(|ttl| ttl.0)).await
            }
            Command::Buckets => self.buckets().await,
            Command::List { prefix, limit, values } => self.list(&prefix, limit, values).await,
            Command::Ttl { key, set: None, persist: false } => self.ttl(&key).await,
            Command::Ttl { key, set, .. } => self.expire(&key, set.map(|ttl| ttl.0)).await,
        };
        // Also before it is said why something failed.
        self.output.flush()?;
        done
    }

    async fn get(&mut self, key: &str) -> Result<()> {
        if !self.output.is_json() {
            return match self.handle.get(&self.bucket, key).await? {
                Some(value) => self.output.value(&value),
                None => Err(self.missing(key).await),
            };
        }
        let (value, left) = tokio::try_join!(
            self.handle.get(&self.bucket, key),
            self.handle.time_to_live(&self.bucket, key)
        )?;
        // It may have gone between the two.
        match (&value, left) {
            (None, _) | (_, TimeToLive::Missing) => {
                self.tell(key, Value { value: Encoded::default(), ttl: None })?;
                Err(self.missing(key).await)
            }
            (Some(value), left) => {
                self.tell(key, Value { value: Encoded::of(value), ttl: milliseconds(left) })
            }
        }
    }

    async fn set(
        &mut self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        if_absent: bool,
    ) -> Result<()> {
        let set = match if_absent {
            true => self.handle.set_if_absent(&self.bucket, key, value, ttl).await?,
            false => self.handle.set_for(&self.bucket, key, value, ttl).await.map(|()| true)?,
        };
        self.tell(key, Set { set })?;
        match set {
            true => Ok(()),
            false => bail!("not set: {} exists", self.name(key)),
        }
    }

    async fn delete(&mut self, keys: &[String]) -> Result<()> {
        for (number, some) in keys.chunks(DELETED_AT_ONCE).enumerate() {
            match self.handle.delete_many(&self.bucket, some).await {
                Err(error) if number > 0 => bail!(
                    "{} of {} keys were deleted, then: {error}; deleting all of them again does no harm",
                    number.saturating_mul(DELETED_AT_ONCE),
                    keys.len()
                ),
                done => done?,
            }
        }
        if self.output.is_json() {
            let deleted = Deleted { bucket: self.bucket.as_str(), deleted: keys };
            self.output.document(&deleted)?;
        }
        Ok(())
    }

    async fn increment(&mut self, key: &str, by: i64, ttl: Option<Duration>) -> Result<()> {
        let count = self.handle.increment_for(&self.bucket, key, by, ttl).await?;
        self.count(key, Count { count, applied: true })
    }

    async fn increment_within(
        &mut self,
        key: &str,
        by: i64,
        bounds: std::ops::RangeInclusive<i64>,
        ttl: Option<Duration>,
    ) -> Result<()> {
        match self.handle.increment_within_for(&self.bucket, key, by, bounds, ttl).await? {
            Bounded::Applied(count) => self.count(key, Count { count, applied: true }),
            Bounded::Refused(count) => {
                self.tell(key, Count { count, applied: false })?;
                bail!(
                    "nothing was changed: {by} more would be out of bounds; {} is {count}",
                    self.name(key)
                )
            }
        }
    }

    fn count(&mut self, key: &str, count: Count) -> Result<()> {
        match self.output.is_json() {
            true => self.tell(key, count),
            false => self.output.line(&count.count.to_string()),
        }
    }

    async fn list(
        &mut self,
        prefix: &str,
        limit: Option<NonZeroUsize>,
        values: bool,
    ) -> Result<()> {
        let mut left = limit.map_or(usize::MAX, NonZeroUsize::get);
        let mut cursor = None;
        let mut is_empty = true;
        loop {
            let mut page = self.handle.list(&self.bucket, prefix, cursor.as_deref()).await?;
            is_empty &= page.keys.is_empty();
            // A page is in no promised order.
            page.keys.sort_unstable();
            page.keys.dedup();
            for some in page.keys.chunks(VALUES_AT_ONCE) {
                let some = some.get(..left).unwrap_or(some);
                let listed = match values {
                    true => self.list_values(some).await?,
                    false => self.list_keys(some)?,
                };
                left = left.saturating_sub(listed);
            }
            self.output.flush()?;
            cursor = page.cursor;
            if cursor.is_none() || left == 0 {
                break;
            }
        }
        // Of a prefix that nothing has, or of a bucket that is not there.
        if is_empty && let Some(reason) = self.no_bucket().await? {
            bail!(reason);
        }
        Ok(())
    }

    fn list_keys(&mut self, keys: &[String]) -> Result<usize> {
        for key in keys {
            match self.output.is_json() {
                true => self.tell(key, Nothing {})?,
                false => self.output.line(&one_line(key.as_bytes()))?,
            }
        }
        Ok(keys.len())
    }

    /// Lists keys that still exist, with their values; gives their number.
    async fn list_values(&mut self, keys: &[String]) -> Result<usize> {
        let values = self.handle.get_many(&self.bucket, keys, usize::MAX).await?;
        let mut listed = 0_usize;
        for (key, value) in keys.iter().zip(values) {
            let Some(value) = value else { continue };
            match self.output.is_json() {
                true => self.tell(key, Encoded::of(&value))?,
                false => {
                    let line = format!("{}\t{}", one_line(key.as_bytes()), one_line(&value));
                    self.output.line(&line)?;
                }
            }
            listed = listed.saturating_add(1);
        }
        Ok(listed)
    }

    async fn ttl(&mut self, key: &str) -> Result<()> {
        let left = self.handle.time_to_live(&self.bucket, key).await?;
        let exists = left != TimeToLive::Missing;
        self.tell(key, Ttl { exists, ttl: milliseconds(left) })?;
        match left {
            TimeToLive::Missing => Err(self.missing(key).await),
            _ if self.output.is_json() => Ok(()),
            TimeToLive::Unlimited => self.output.line("unlimited"),
            TimeToLive::Left(left) => self.output.line(&Span(left).to_string()),
        }
    }

    async fn expire(&mut self, key: &str, ttl: Option<Duration>) -> Result<()> {
        let exists = self.handle.expire(&self.bucket, key, ttl).await?;
        let left = ttl.filter(|_| exists).map(TimeToLive::Left);
        self.tell(key, Ttl { exists, ttl: left.and_then(milliseconds) })?;
        match exists {
            true => Ok(()),
            false => Err(self.missing(key).await),
        }
    }

    /// Prints what there is to tell of a key, where JSON is asked for.
    fn tell(&mut self, key: &str, rest: impl Serialize) -> Result<()> {
        if !self.output.is_json() {
            return Ok(());
        }
        self.output.document(&About { bucket: self.bucket.as_str(), key, rest })
    }

    /// Says that there is no such key; where there is not even its bucket, which buckets there are.
    async fn missing(&self, key: &str) -> anyhow::Error {
        match self.no_bucket().await {
            Ok(Some(reason)) => {
                anyhow!("there is no key '{}': {reason}", one_line(key.as_bytes()))
            }
            Ok(None) | Err(_) => anyhow!("there is no {}", self.name(key)),
        }
    }

    /// A key by its name, for people.
    fn name(&self, key: &str) -> String {
        let bucket = one_line(self.bucket.as_str().as_bytes());
        format!("key '{}' in the bucket '{bucket}'", one_line(key.as_bytes()))
    }
}

fn milliseconds(left: TimeToLive) -> Option<u64> {
    match left {
        TimeToLive::Left(left) => u64::try_from(left.as_millis()).ok(),
        TimeToLive::Missing | TimeToLive::Unlimited => None,
    }
}
