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
//! `wire` counts, `replies` has the client read all that a server may say, and `list` walks over the
//! keys.

mod address;
mod command;
mod list;
mod replies;
mod sentinel;
mod setup;
mod target;
mod wire;

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use redis::{Pipeline, Value, aio::MultiplexedConnection};

use self::{
    command::{Text, command, increments, outcome, outcomes, refused},
    target::Target,
    wire::Wire,
};
use crate::{
    backend::{Connection, Description, all_failed},
    error::{Error, OpenError, Unconnected},
    operation::{Action, Outcome, Step},
    plan::Reply,
    state::Options,
};

/// A Redis server.
#[derive(Clone)]
pub(crate) struct Redis {
    target: Arc<Target>,
    /// How long records of requests are kept.
    window: Duration,
}

impl Redis {
    /// Reads the URL, connects once, and asks the server what it guarantees.
    pub(crate) async fn open(
        url: &str,
        options: &Options,
    ) -> Result<(Self, Description), OpenError> {
        let target = Arc::new(Target::parse(url, options)?);
        let redis = Self { target, window: options.idempotency_window };
        let location = redis.target.location();
        let explain = |reason| format!("cannot use Redis at {location}: {reason}");
        let open = async {
            let mut live = redis.target.connect().await?;
            let durability = redis.target.in_time(live.durability()).await?;
            redis
                .target
                .in_time(setup::prepare(&mut live, options.read_only, redis.target.probes()))
                .await?;
            Ok::<_, Unconnected>((live, durability))
        };
        let opened = open.await.map_err(|unconnected| unconnected.explain(explain));
        let (mut live, (guarantee, warning)) = match opened {
            Err(OpenError::Away(_)) if options.may_be_away => {
                return Ok((redis, Description::away("redis", location)));
            }
            opened => opened?,
        };
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
        let (target, window) = (Arc::clone(&self.target), self.window);
        RedisConnection { target, window, live: None, probed: 0 }
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
    window: Duration,
    /// Taken while a batch is on its way: if that is given up, so is the connection.
    live: Option<Live>,
    /// How far the keys are tried that show whether writes are taken.
    probed: usize,
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
        let checked = setup::check(
            &mut live,
            self.target.is_only_read(),
            self.target.probes(),
            &mut self.probed,
        )
        .await;
        self.live = Some(live);
        checked
    }

    async fn apply(&mut self, steps: &[Step]) -> Vec<Reply> {
        let usable = self.live.take().filter(|live| !live.wire.closed.load(Ordering::Acquire));
        let Some(mut live) = usable else {
            let error = Error::not_applied("the connection to Redis ended before it was sent");
            return all_failed(steps, &error);
        };
        let replies = live.apply(steps, self.window).await;
        self.live = Some(live);
        replies
    }
}

impl Live {
    async fn apply(&mut self, steps: &[Step], window: Duration) -> Vec<Reply> {
        let are_lists = |step: &&Step| matches!(step.action, Action::Increments(_));
        if steps.iter().filter(are_lists).nth(1).is_some() {
            return self.apply_together(steps, window).await;
        }
        let mut pipeline = Pipeline::with_capacity(steps.len());
        for step in steps {
            if let Some(command) = command(step, Text::Hash, window) {
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
            let value = if has_command(step) { values.next() } else { None };
            replies.push(match value {
                // Nearly always.
                Some(value) if !matches!(value, Value::ServerError(_)) => outcome(step, value),
                value => self.answer(step, value, window).await,
            });
        }
        replies
    }

    /// Applies steps of which several are lists of increments.
    async fn apply_together(&mut self, steps: &[Step], window: Duration) -> Vec<Reply> {
        let commands = commands(steps);
        let mut pipeline = Pipeline::with_capacity(commands.len());
        for places in &commands {
            if let Some(command) = command_of(&at(steps, places), Text::Hash, window) {
                pipeline.add_command(command);
            }
        }
        let mut values = match self.send(&pipeline).await {
            Ok(values) => values.into_iter(),
            Err(error) => return all_failed(steps, &error),
        };
        let mut replies: Vec<Option<Reply>> = vec![None; steps.len()];
        for places in &commands {
            let those = at(steps, places);
            let answers = match &those[..] {
                [step] => {
                    let value = if has_command(step) { values.next() } else { None };
                    vec![self.answer(step, value, window).await]
                }
                _ => self.answers(&those, values.next(), window).await,
            };
            for (place, answer) in places.iter().zip(answers) {
                if let Some(reply) = replies.get_mut(*place) {
                    *reply = Some(answer);
                }
            }
        }
        let missing = || Err(Error::unknown("Redis gave no answer for this operation"));
        replies.into_iter().map(|reply| reply.unwrap_or_else(missing)).collect()
    }

    /// What an answer means for the step of its command, or what a step without one comes to.
    async fn answer(&mut self, step: &Step, value: Option<Value>, window: Duration) -> Reply {
        match &step.action {
            Action::List { prefix, cursor, limit } => {
                self.list(&step.bucket, prefix, cursor.as_deref(), *limit).await
            }
            Action::Buckets { cursor, .. } => self.buckets(cursor.as_deref()).await,
            // Redis removes by itself what has expired.
            Action::Sweep { .. } => Ok(Outcome::Swept(false)),
            _ => {
                let mut answers = self.answers(&[step], value, window).await;
                answers.pop().unwrap_or_else(|| Err(Error::unknown("Redis did not answer")))
            }
        }
    }

    /// What an answer means for the steps of its command. Where the server has forgotten the script,
    /// the command was not executed, and is sent again with the script's text.
    async fn answers(
        &mut self,
        steps: &[&Step],
        answer: Option<Value>,
        window: Duration,
    ) -> Vec<Reply> {
        let failed = |error: Error| vec![Err(error); steps.len()];
        let answer = match answer {
            None => {
                return failed(Error::unknown("Redis answered fewer commands than it was sent"));
            }
            Some(Value::ServerError(error)) if error.code() == "NOSCRIPT" => {
                let Some(command) = command_of(steps, Text::Full, window) else {
                    return failed(Error::unknown("Redis answered NOSCRIPT to no script"));
                };
                let mut pipeline = Pipeline::with_capacity(1);
                pipeline.add_command(command);
                match self.send(&pipeline).await.map(|mut answers| answers.pop()) {
                    Ok(Some(answer)) => answer,
                    Ok(None) => return failed(Error::unknown("Redis did not answer")),
                    Err(error) => return failed(error),
                }
            }
            Some(answer) => answer,
        };
        match steps {
            [step] => vec![outcome(step, answer)],
            steps => outcomes(steps, answer),
        }
    }
}

/// Whether a step is one command, rather than several or none.
fn has_command(step: &Step) -> bool {
    !matches!(step.action, Action::List { .. } | Action::Buckets { .. } | Action::Sweep { .. })
}

/// Increments of one command at most: a short script for the server.
const MOST_TOGETHER: usize = 128;

/// Which steps share a command, by their places: increments of different keys that are lists (see
/// [`crate::operation::Increments`]), as a call of the script costs more than what it does for one.
fn commands(steps: &[Step]) -> Vec<Vec<usize>> {
    let mut commands: Vec<Vec<usize>> = Vec::with_capacity(steps.len());
    let mut keys: HashMap<(&str, &str), usize> = HashMap::with_capacity(steps.len());
    for step in steps {
        let count = keys.entry((step.bucket.as_str(), &step.key)).or_default();
        *count = count.saturating_add(1);
    }
    // Where a key has other steps, their order counts.
    let is_alone = |step: &Step| {
        keys.get(&(step.bucket.as_str(), &*step.key)).is_some_and(|count| *count == 1)
    };
    let (mut open, mut increments) = (None, 0_usize);
    for (place, step) in steps.iter().enumerate() {
        let Action::Increments(list) = &step.action else {
            commands.push(vec![place]);
            continue;
        };
        if !is_alone(step) {
            commands.push(vec![place]);
            continue;
        }
        increments = increments.saturating_add(list.members.len());
        match open.and_then(|command: usize| commands.get_mut(command)) {
            Some(command) if increments <= MOST_TOGETHER => command.push(place),
            _ => {
                open = Some(commands.len());
                increments = list.members.len();
                commands.push(vec![place]);
            }
        }
    }
    commands
}

fn at<'a>(steps: &'a [Step], places: &[usize]) -> Vec<&'a Step> {
    places.iter().filter_map(|place| steps.get(*place)).collect()
}

/// The command for steps that share one.
fn command_of(steps: &[&Step], text: Text, window: Duration) -> Option<redis::Cmd> {
    match steps {
        [step] => command(step, text, window),
        steps => Some(increments(steps, text, window)),
    }
}

/// What is wrong with a URL, for fuzzing.
#[cfg(test)]
pub(crate) fn fuzz_url(url: &str, options: &Options) -> Option<String> {
    // Files that a URL names are not read.
    let reads_files = url.contains("cacert") || url.contains("cert=");
    match reads_files || url.starts_with("rediss") {
        true => address::parse(url).err().map(|error| error.to_string()),
        false => Target::parse(url, options).err().map(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Bucket,
        operation::{Increments, Member},
    };

    fn step(key: &str, is_list: bool) -> Step {
        let members = vec![Member { write: None, delta: 1 }];
        let list = Action::Increments(Increments { members, magnitude: 1, ttl: None });
        Step {
            bucket: Bucket::new("b").unwrap(),
            key: key.into(),
            action: if is_list { list } else { Action::Get },
            write: None,
        }
    }

    #[test]
    fn increments_of_different_keys_share_a_command_and_order_is_kept() {
        let steps = ["a", "b", "c", "d"].map(|key| step(key, key != "b"));
        assert_eq!(commands(&steps), [vec![0, 2, 3], vec![1]]);
        let steps = ["a", "b", "a", "c"].map(|key| step(key, true));
        assert_eq!(commands(&steps), [vec![0], vec![1, 3], vec![2]], "one key's stay apart");
        let many: Vec<Step> = (0..300).map(|key| step(&key.to_string(), true)).collect();
        let sizes: Vec<usize> = commands(&many).iter().map(Vec::len).collect();
        assert_eq!(sizes, [128, 128, 44]);
    }
}
