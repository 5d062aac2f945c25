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
//! `address` reads URLs, `target` connects, `sentinel` finds the master, and `wire` counts.

mod address;
mod sentinel;
mod target;
mod wire;

use std::sync::{Arc, LazyLock, atomic::Ordering};

use bytes::Bytes;
use percent_encoding::{AsciiSet, utf8_percent_encode};
use redis::{Cmd, Pipeline, Script, ServerError, Value, aio::MultiplexedConnection};

use self::{target::Target, wire::Wire};
use crate::{
    Page, Rejection,
    backend::{Connection, Description, all_failed},
    error::{Error, OpenError},
    name::{Bucket, check_key},
    operation::{Action, Outcome, Step, Swapped},
    plan::Reply,
    state::Options,
};

/// Keys that one `SCAN` looks at: a short command for the server.
const SCAN_COUNT: usize = 1_000;

/// `SCAN`s for one page. A bucket that is a small part of a large database yields pages with few
/// keys, rather than holding up the lane.
const SCANS_A_PAGE: usize = 8;

/// The characters of a bucket's name that would let it run into the key.
const SEPARATORS: &AsciiSet = &AsciiSet::EMPTY.add(b':').add(b'%');

/// Compare-and-swap. KEYS: the key. ARGV: whether a value is expected, which, and the new one.
const SWAP: &str = "
local current = redis.call('GET', KEYS[1])
local same
if ARGV[1] == '1' then same = current == ARGV[2] else same = not current end
if same then
    redis.call('SET', KEYS[1], ARGV[3])
    return {1}
end
return {0, current}";

/// What the server knows the script by.
static SWAP_HASH: LazyLock<String> = LazyLock::new(|| Script::new(SWAP).get_hash().to_owned());

/// A Redis server.
pub(crate) struct Redis {
    target: Arc<Target>,
}

impl Redis {
    /// Reads the URL, connects once, and asks the server what it guarantees.
    pub(crate) async fn open(
        url: &str,
        options: &Options,
    ) -> Result<(Self, Description), OpenError> {
        let target = Arc::new(Target::parse(url, options)?);
        let redis = Self { target };
        let location = redis.target.location();
        let explain = |reason: String| {
            OpenError::Backend(format!(
                "cannot use Redis at {location}: {reason}; check that it runs there and that the user and password in the store URL are right"
            ))
        };
        let mut live = redis.target.connect().await.map_err(explain)?;
        let (guarantee, warning) = live.durability().await.map_err(explain)?;
        let lost = match redis.target.fails_over() {
            true => sentinel::warning(&mut live).await,
            false => None,
        };
        let warnings: Vec<String> = warning.into_iter().chain(lost).collect();
        let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
        let description = Description { backend: "redis", location, guarantee, warning };
        Ok((redis, description))
    }

    /// A connection for one lane, made when first used.
    pub(crate) fn connection(&self) -> RedisConnection {
        RedisConnection { target: Arc::clone(&self.target), live: None }
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

    /// What the server says of its persistence, for people: the guarantee, and what weakens it.
    /// Fails where it says nothing at all, as to a client that did not log in.
    async fn durability(&mut self) -> Result<(String, Option<String>), String> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("INFO").arg("persistence");
        pipeline.cmd("CONFIG").arg("GET").arg("appendfsync");
        let values = self.send(&pipeline).await.map_err(|error| error.to_string())?;
        if let Some(Value::ServerError(error)) = values.first()
            && error.code() == "NOAUTH"
        {
            return Err(refused(error).to_string());
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

/// One lane's connection, made anew when it is found closed.
pub(crate) struct RedisConnection {
    target: Arc<Target>,
    /// Taken while a batch is on its way: if that is given up, so is the connection.
    live: Option<Live>,
}

impl Connection for RedisConnection {
    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        let usable = self.live.take().filter(|live| !live.wire.closed.load(Ordering::Acquire));
        let mut live = match usable {
            Some(live) => live,
            None => match self.target.connect().await {
                Ok(live) => live,
                Err(reason) => {
                    let error = Error::not_applied(format!("cannot connect to Redis: {reason}"));
                    return all_failed(steps, &error);
                }
            },
        };
        let replies = live.apply(steps).await;
        self.live = Some(live);
        replies
    }
}

impl Live {
    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        let mut pipeline = Pipeline::with_capacity(steps.len());
        for step in steps {
            if let Some(command) = command(step) {
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
                Action::List { cursor, limit } => {
                    self.list(&step.bucket, cursor.as_deref(), *limit).await
                }
                _ => match values.next() {
                    None => Err(Error::unknown("Redis answered fewer commands than it was sent")),
                    Some(Value::ServerError(error)) if error.code() == "NOSCRIPT" => {
                        self.load_and_swap(step).await
                    }
                    Some(value) => outcome(&step.action, value),
                },
            };
            replies.push(reply);
        }
        replies
    }

    /// A swap whose script the server has forgotten: it was not executed, and is sent again with
    /// the script's text.
    async fn load_and_swap(&mut self, step: &Step) -> Reply {
        let Action::Swap { expected, value } = &step.action else {
            return Err(Error::unknown("Redis answered NOSCRIPT to a plain command"));
        };
        let mut pipeline = redis::pipe();
        pipeline.cmd("EVAL").arg(SWAP);
        swap_arguments(&mut pipeline, step, expected.as_ref(), value);
        match self.send(&pipeline).await?.pop() {
            Some(answer) => outcome(&step.action, answer),
            None => Err(Error::unknown("Redis did not answer")),
        }
    }

    /// A page of keys by `SCAN`, which never holds up the server as `KEYS` would.
    async fn list(&mut self, bucket: &Bucket, cursor: Option<&str>, limit: usize) -> Reply {
        let mut cursor: u64 = match cursor {
            None => 0,
            Some(text) => text.parse().map_err(|_| Rejection::Cursor)?,
        };
        let prefix = place(bucket, "");
        let pattern = format!("{}*", escape_glob(&prefix));
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
                let key = name.strip_prefix(&prefix)?;
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

/// The name of a key in Redis.
fn place(bucket: &Bucket, key: &str) -> String {
    format!("{}:{key}", utf8_percent_encode(bucket.as_str(), SEPARATORS))
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

/// The command for a step; `None` for a listing, which is more than one.
fn command(step: &Step) -> Option<Cmd> {
    let name = place(&step.bucket, &step.key);
    let mut command = Cmd::new();
    match &step.action {
        Action::Get => command.arg("GET").arg(name),
        Action::Exists => command.arg("EXISTS").arg(name),
        Action::Set(value) => command.arg("SET").arg(name).arg(&value[..]),
        Action::Delete => command.arg("DEL").arg(name),
        Action::Increment(delta) => command.arg("INCRBY").arg(name).arg(*delta),
        Action::Swap { expected, value } => {
            let mut pipeline = redis::pipe();
            pipeline.cmd("EVALSHA").arg(SWAP_HASH.as_str());
            swap_arguments(&mut pipeline, step, expected.as_ref(), value);
            return pipeline.cmd_iter().next().cloned();
        }
        Action::List { .. } => return None,
    };
    Some(command)
}

fn swap_arguments(pipeline: &mut Pipeline, step: &Step, expected: Option<&Bytes>, value: &Bytes) {
    pipeline
        .arg(1)
        .arg(place(&step.bucket, &step.key))
        .arg(if expected.is_some() { "1" } else { "0" })
        .arg(expected.map_or(&[][..], |value| &value[..]))
        .arg(&value[..]);
}

fn outcome(action: &Action, value: Value) -> Reply {
    let unexpected = |value: Value| {
        // What a server answers to a write it did not understand says nothing of its effect.
        Err(Error::unknown(format!("Redis answered something unexpected: {value:?}")))
    };
    Ok(match (action, value) {
        (_, Value::ServerError(error)) => return Err(refused(&error)),
        (Action::Get, Value::Nil) => Outcome::Value(None),
        (Action::Get, Value::BulkString(bytes)) => Outcome::Value(Some(bytes.into())),
        (Action::Exists, Value::Int(count)) => Outcome::Exists(count > 0),
        (Action::Set(_), Value::Okay) | (Action::Delete, Value::Int(_)) => Outcome::Done,
        (Action::Increment(_), Value::Int(count)) => Outcome::Count(count),
        (Action::Swap { .. }, Value::Array(parts)) => {
            let mut parts = parts.into_iter();
            match (parts.next(), parts.next()) {
                (Some(Value::Int(1)), None) => Outcome::Swapped(Swapped::Yes),
                (Some(Value::Int(0)), Some(Value::Nil) | None) => {
                    Outcome::Swapped(Swapped::No(None))
                }
                (Some(Value::Int(0)), Some(Value::BulkString(current))) => {
                    Outcome::Swapped(Swapped::No(Some(current.into())))
                }
                (first, second) => {
                    return unexpected(Value::Array(first.into_iter().chain(second).collect()));
                }
            }
        }
        (_, value) => return unexpected(value),
    })
}

/// An error reply: the command was not executed. Some are the operation's own fault.
fn refused(error: &ServerError) -> Error {
    let detail = error.details().unwrap_or_default();
    if error.code() == "WRONGTYPE" {
        return Rejection::WrongType(detail.to_owned()).into();
    }
    if detail.contains("not an integer or out of range") {
        return Rejection::NotANumber.into();
    }
    if detail.contains("would overflow") {
        return Rejection::Overflow.into();
    }
    Error::not_applied(format!("Redis refused: {} {detail}", error.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_cannot_reach_into_another_through_its_separator() {
        let place = |bucket, key| place(&Bucket::new(bucket).unwrap(), key);
        assert_eq!(place("main", "count"), "main:count", "shared with other Redis programs");
        assert_ne!(place("a", "b:c"), place("a:b", "c"));
        assert_ne!(place("a%3Ab", "c"), place("a:b", "c"));
    }

    #[test]
    fn glob_characters_in_a_bucket_match_only_themselves() {
        assert_eq!(escape_glob("a*[b]?:"), "a\\*\\[b\\]\\?:");
    }
}
