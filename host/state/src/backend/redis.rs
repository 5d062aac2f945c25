//! `redis://`, `rediss://`, and `-sentinel` of both: Redis, Valkey and what speaks their protocol.
//!
//! A batch is one pipeline on a lane's own connection. Values are plain strings under
//! `bucket:key`, so that a counter can be shared with any other Redis program; `:` and `%` in a
//! bucket's name are percent-encoded, so that no two buckets meet.
//!
//! What keeps it exact: the stream below the client counts the bytes written, so a failure before
//! the first byte of a batch is certain, and one after it is unknown; nothing is ever sent twice.
//! A dead connection is noticed before a batch is written to it. An error reply means that the
//! command was not executed (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).
//!
//! `address` reads URLs, `target` connects, `sentinel` finds the master, `setup` checks a server,
//! `wire` counts, and `replies` has the client read all that a server may say.

mod address;
mod command;
mod replies;
mod sentinel;
mod setup;
mod target;
mod wire;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redis::{Pipeline, Value, aio::MultiplexedConnection};

use self::{
    command::{Text, command, outcome, place, refused},
    target::Target,
    wire::Wire,
};
use crate::{
    Page, Rejection,
    backend::{Connection, Description, all_failed},
    error::{Error, OpenError, Unconnected},
    name::{Bucket, check_key},
    operation::{Action, Outcome, Step},
    plan::Reply,
    state::Options,
};

/// Keys that one `SCAN` looks at: a short command for the server.
const SCAN_COUNT: usize = 1_000;

/// `SCAN`s for one page. A bucket that is a small part of a large database yields pages with few
/// keys, rather than holding up the lane.
const SCANS_A_PAGE: usize = 8;

/// A Redis server.
#[derive(Clone)]
pub(crate) struct Redis {
    target: Arc<Target>,
    /// How long records of requests are kept.
    remember: Duration,
}

impl Redis {
    /// Reads the URL, connects once, and asks the server what it guarantees.
    pub(crate) async fn open(
        url: &str,
        options: &Options,
    ) -> Result<(Self, Description), OpenError> {
        let target = Arc::new(Target::parse(url, options)?);
        let redis = Self { target, remember: options.remember };
        let location = redis.target.location();
        let explain = |reason| format!("cannot use Redis at {location}: {reason}");
        let open = async {
            let mut live = redis.target.connect().await?;
            let durability = redis.target.in_time(live.durability()).await?;
            redis.target.in_time(setup::prepare(&mut live, options.read_only)).await?;
            Ok::<_, Unconnected>((live, durability))
        };
        let opened = open.await.map_err(|unconnected| unconnected.explain(explain))?;
        let (mut live, (guarantee, warning)) = opened;
        let lost = match redis.target.fails_over() {
            true => sentinel::warning(&mut live).await,
            false => None,
        };
        let evicted = live.eviction().await;
        let warnings: Vec<String> = warning.into_iter().chain(evicted).chain(lost).collect();
        let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
        let description = Description { backend: "redis", location, guarantee, warning };
        Ok((redis, description))
    }

    /// A connection for one lane, made when first used.
    pub(crate) fn connection(&self) -> RedisConnection {
        let (target, remember) = (Arc::clone(&self.target), self.remember);
        RedisConnection { target, remember, live: None }
    }
}

/// A connection that was up when last seen.
struct Live {
    client: MultiplexedConnection,
    wire: Arc<Wire>,
}

impl Live {
    /// Sends a pipeline once. Error replies are among the values; an `Err` concerns them all.
    async fn send(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let before = self.wire.written.load(Ordering::Acquire);
        let sent = self.client.send_packed_commands(pipeline, 0, pipeline.len()).await;
        if let Ok(answers) = &sent {
            self.wire.heed(answers);
        }
        sent.map_err(|error| {
            self.wire.closed.store(true, Ordering::Release);
            if self.wire.written.load(Ordering::Acquire) == before {
                Error::not_applied(format!("Redis: {error}"))
            } else {
                Error::unknown(format!("Redis: the connection failed after sending: {error}"))
            }
        })
    }

    /// What weakens all promises if the server may throw keys away to make room.
    async fn eviction(&mut self) -> Option<String> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("memory");
        let info: String =
            redis::from_redis_value_ref(self.send(&pipeline).await.ok()?.first()?).ok()?;
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let (limit, policy) = (field("maxmemory")?, field("maxmemory_policy")?);
        (limit != "0" && policy != "noeviction").then(|| {
            format!(
                "the server throws keys away when its memory is full (maxmemory-policy {policy}): counters can be lost, and requests with an Idempotency-Key counted twice; set maxmemory-policy to 'noeviction' to prevent it"
            )
        })
    }

    /// What the server says of its persistence, for people: the guarantee, and what weakens it.
    /// Fails where it says nothing at all, as to a client that did not log in.
    async fn durability(&mut self) -> Result<(String, Option<String>), Unconnected> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("persistence");
        pipeline.cmd("CONFIG").arg("GET").arg("appendfsync");
        let values = self.send(&pipeline).await;
        let values = values.map_err(|error| Unconnected::passing(error.to_string()))?;
        if let Some(Value::ServerError(error)) = values.first()
            && error.code() == "NOAUTH"
        {
            return Err(Unconnected::lasting(format!("{}{}", refused(error), setup::LOGIN)));
        }
        let text = |value: &Value| redis::from_redis_value_ref::<String>(value).unwrap_or_default();
        let info = values.first().map(text).unwrap_or_default();
        let fsync = match values.get(1) {
            Some(Value::Array(pair)) => pair.get(1).map(text).unwrap_or_default(),
            _ => String::new(),
        };
        Ok(if info.contains("aof_enabled:1") {
            match fsync.as_str() {
                "always" => ("every acknowledged write is in the server's append-only file, synced".into(), None),
                "" => ("acknowledged writes are in the server's append-only file".into(), None),
                policy => (
                    format!("acknowledged writes are in the server's append-only file, synced '{policy}'"),
                    Some("a crash of the Redis machine can lose the last moments of acknowledged writes; set appendfsync to 'always' to prevent it".into()),
                ),
            }
        } else if info.contains("aof_enabled:0") {
            (
                "acknowledged writes are in the server's memory".into(),
                Some("the server's append-only file is off: acknowledged writes are lost when Redis stops; set appendonly to 'yes' to keep them".into()),
            )
        } else {
            ("as durable as the server's own configuration, which it does not tell".into(), None)
        })
    }
}

/// One lane's connection.
pub(crate) struct RedisConnection {
    target: Arc<Target>,
    remember: Duration,
    /// Taken while a batch is on its way: if that is given up, so is the connection.
    live: Option<Live>,
}

impl Connection for RedisConnection {
    fn is_ready(&self) -> bool {
        self.live.as_ref().is_some_and(|live| !live.wire.closed.load(Ordering::Acquire))
    }

    async fn connect(&mut self) -> Result<(), Error> {
        self.live = None;
        let connected = self.target.connect_checked().await.map_err(|unconnected| {
            Error::not_applied(format!("cannot connect to Redis: {}", unconnected.reason))
        });
        self.live = Some(connected?);
        Ok(())
    }

    async fn check(&mut self) -> Result<(), Error> {
        let Some(mut live) = self.live.take() else { return Ok(()) };
        let checked = setup::check(&mut live, self.target.is_only_read()).await;
        self.live = Some(live);
        checked
    }

    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        let usable = self.live.take().filter(|live| !live.wire.closed.load(Ordering::Acquire));
        let Some(mut live) = usable else {
            let error = Error::not_applied("the connection to Redis ended before it was sent");
            return all_failed(steps, &error);
        };
        let replies = live.apply(steps, self.remember).await;
        self.live = Some(live);
        replies
    }
}

impl Live {
    async fn apply(&mut self, steps: &[Step], remember: Duration) -> Vec<Reply> {
        let mut pipeline = Pipeline::with_capacity(steps.len());
        for step in steps {
            if let Some(command) = command(step, Text::Hash, remember) {
                pipeline.add_command(command);
            }
        }
        let mut values = match pipeline.is_empty() {
            true => Vec::new().into_iter(),
            false => match self.send(&pipeline).await {
                Ok(values) => values.into_iter(),
                Err(error) => return all_failed(steps, &error),
            },
        };
        let mut replies = Vec::with_capacity(steps.len());
        for step in steps {
            let reply = match &step.action {
                Action::List { prefix, cursor, limit } => {
                    self.list(&step.bucket, prefix, cursor.as_deref(), *limit).await
                }
                // Redis removes by itself what has expired.
                Action::Sweep { .. } => Ok(Outcome::Swept(false)),
                _ => match values.next() {
                    None => Err(Error::unknown("Redis answered fewer commands than it was sent")),
                    Some(Value::ServerError(error)) if error.code() == "NOSCRIPT" => {
                        self.with_script(step, remember).await
                    }
                    Some(value) => outcome(step, value),
                },
            };
            replies.push(reply);
        }
        replies
    }

    /// A step whose script the server has forgotten: it was not executed, and is sent again with
    /// the script's text.
    async fn with_script(&mut self, step: &Step, remember: Duration) -> Reply {
        let mut pipeline = Pipeline::with_capacity(1);
        match command(step, Text::Full, remember) {
            Some(command) => pipeline.add_command(command),
            None => return Err(Error::unknown("Redis answered NOSCRIPT to no script")),
        };
        match self.send(&pipeline).await?.pop() {
            Some(answer) => outcome(step, answer),
            None => Err(Error::unknown("Redis did not answer")),
        }
    }

    /// A page of keys by `SCAN`, which never holds up the server as `KEYS` would.
    async fn list(
        &mut self,
        bucket: &Bucket,
        prefix: &str,
        cursor: Option<&str>,
        limit: usize,
    ) -> Reply {
        let mut cursor: u64 = match cursor {
            None => 0,
            Some(text) => text.parse().map_err(|_| Rejection::Cursor)?,
        };
        let bucket = place(bucket, "");
        let pattern = format!("{}{}*", escape_glob(&bucket), escape_glob(prefix));
        let mut keys = Vec::new();
        for _ in 0..SCANS_A_PAGE {
            let mut pipeline = redis::pipe();
            pipeline.cmd("SCAN").arg(cursor).arg("MATCH").arg(&pattern);
            pipeline.arg("COUNT").arg(SCAN_COUNT).arg("TYPE").arg("string");
            let answer = self.send(&pipeline).await?.pop().unwrap_or(Value::Nil);
            if let Value::ServerError(error) = answer {
                return Err(refused(&error));
            }
            let (next, found): (u64, Vec<Vec<u8>>) = redis::from_redis_value(answer)
                .map_err(|error| Error::not_applied(format!("Redis: {error}")))?;
            // Keys of other programs that no guest could ask for are passed over.
            keys.extend(found.into_iter().filter_map(|name| {
                let name = String::from_utf8(name).ok()?;
                let key = name.strip_prefix(&bucket)?;
                check_key(key).is_ok().then(|| key.to_owned())
            }));
            cursor = next;
            if cursor == 0 || keys.len() >= limit {
                break;
            }
        }
        // SCAN may name a key twice while its table grows or shrinks.
        keys.sort_unstable();
        keys.dedup();
        let cursor = (cursor != 0).then(|| cursor.to_string());
        Ok(Outcome::Page(Page { keys, cursor }))
    }
}

/// Takes the meaning from what `MATCH` would read as a pattern.
fn escape_glob(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '^' | '-' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_characters_in_a_bucket_match_only_themselves() {
        assert_eq!(escape_glob("a*[b]?:"), "a\\*\\[b\\]\\?:");
    }
}
