//! What is found out of a server before it is used, and while it is idle.
//!
//! A replica, a cluster, and a user without the rights that operations need are said with what to do.
//! One command asks for all that a write asks for, and writes nothing: `SET` with `XX` of a key that
//! does not exist is refused where any `SET` would be, by a replica, by a full server, by one that
//! cannot save, and for want of a right.

use redis::{ErrorKind, Pipeline, RedisError, ServerError, Value};

use super::{
    Live,
    command::{place, refused},
};
use crate::{
    Bucket,
    error::{Error, Unconnected},
};

/// A key of the host's own that never exists for longer than a check takes.
const PROBE: &str = "tally.probe";

/// What a user must be able to run, as it is tried: without effect, but for two commands that create
/// [`PROBE`], which then goes. `docs/stores.md` lists them.
const COMMANDS: &[&[&str]] = &[
    &["GET", PROBE],
    &["EXISTS", PROBE],
    &["PTTL", PROBE],
    &["PEXPIRE", PROBE, "1"],
    &["PERSIST", PROBE],
    &["SET", PROBE, "", "XX"],
    &["INCRBY", PROBE, "1"],
    &["DEL", PROBE],
    &["HSET", PROBE, "field", ""],
    &["HGET", PROBE, "field"],
    &["HLEN", PROBE],
    &["HGETALL", PROBE],
    &["HDEL", PROBE, "field"],
    &["SCAN", "0", "COUNT", "1"],
    &["EVALSHA", "0000000000000000000000000000000000000000", "0"],
    &["EVAL", "return 1", "0"],
    &["TIME"],
    &["DEL", PROBE],
];

/// What a user must be able to run where the store is only read.
const READING: &[&str] = &["GET", "EXISTS", "PTTL", "HGET", "HLEN", "HGETALL", "SCAN"];

const CLUSTER: &str = "it is a node of a Redis Cluster, which Tally does not support; name a server by itself, or one that sentinels watch";
const REPLICA: &str = "it is a replica, which takes no writes and may be behind; name the master in the store URL, or the sentinels that watch it";

/// The keys that show whether a user may write: see [`super::target::Target`].
pub(super) fn probes(buckets: &[Bucket]) -> Vec<String> {
    let of_buckets = buckets.iter().map(|bucket| place(bucket, PROBE));
    std::iter::once(PROBE.to_owned()).chain(of_buckets).collect()
}

/// Buckets that are tried in one exchange when the host starts.
const PROBED_AT_ONCE: usize = 500;

/// Buckets that are tried each time an idle connection is checked: all that most hosts have, in less than a
/// millisecond.
const PROBED_IDLE: usize = 500;

/// Checks that a user may write the keys of all buckets.
async fn prepare_buckets(live: &mut Live, probes: &[String]) -> Result<(), Unconnected> {
    for names in probes.chunks(PROBED_AT_ONCE) {
        let refused = probe(live, names).await;
        let refused = refused.map_err(|error| Unconnected::passing(error.to_string()))?;
        if let Some((name, error)) = refused.into_iter().find(|(_, error)| error.code() == "NOPERM")
        {
            let bucket = name.strip_suffix(PROBE).unwrap_or(name);
            let says = error.details().unwrap_or_default();
            return Err(Unconnected::lasting(format!(
                "its user may not use the keys {bucket}*: {says}; allow them, as in: ACL SETUSER NAME ~{bucket}*"
            )));
        }
    }
    Ok(())
}

/// Checks a server that a host is to use.
pub(super) async fn prepare(
    live: &mut Live,
    read_only: bool,
    probes: &[String],
) -> Result<(), Unconnected> {
    let mut pipeline = redis::pipe();
    // Also what a user may ask who may not write.
    pipeline.cmd("INFO").arg("server").cmd("INFO").arg("replication");
    let wanted = COMMANDS
        .iter()
        .filter(|words| !read_only || words.first().is_some_and(|name| READING.contains(name)));
    let wanted: Vec<&[&str]> = wanted.copied().collect();
    for words in &wanted {
        pipeline.add_command(command(words));
    }
    let answers =
        live.send(&pipeline).await.map_err(|error| Unconnected::passing(error.to_string()))?;
    let text = |place: usize| {
        let answer = answers.get(place)?;
        redis::from_redis_value_ref::<String>(answer).ok()
    };
    if text(0).is_some_and(|info| info.contains("redis_mode:cluster")) {
        return Err(Unconnected::lasting(CLUSTER));
    }
    if !read_only && text(1).is_some_and(|info| info.contains("role:slave")) {
        return Err(Unconnected::lasting(REPLICA));
    }
    let mut missing: Vec<&str> = Vec::new();
    let mut says = None;
    for (words, answer) in wanted.iter().zip(answers.iter().skip(2)) {
        let Value::ServerError(error) = answer else { continue };
        match unusable(error) {
            Some(unconnected) if unconnected.is_passing || !lacks(error) => {
                return Err(unconnected);
            }
            Some(_) => {
                says = says.or_else(|| error.details().map(str::to_owned));
                missing.extend(words.first().filter(|name| !missing.contains(*name)));
            }
            None => {}
        }
    }
    let Some(says) = says else {
        return if read_only { Ok(()) } else { prepare_buckets(live, probes).await };
    };
    let grants: Vec<String> =
        missing.iter().map(|name| format!("+{}", name.to_ascii_lowercase())).collect();
    Err(Unconnected::lasting(format!(
        "it refuses {}: {says}; if by its ACL, allow them, as in: ACL SETUSER NAME {} ~tally.* ~BUCKET:* for each bucket",
        missing.join(", "),
        grants.join(" ")
    )))
}

/// Whether an error says that the user may not, or nobody may, run a command.
fn lacks(error: &ServerError) -> bool {
    let unknown = error.details().is_some_and(|text| text.starts_with("unknown command"));
    unknown || error.code() == "NOPERM"
}

/// What an error says of the server, if it is not of the moment or of the one command alone.
fn unusable(error: &ServerError) -> Option<Unconnected> {
    let says = || refused(error).to_string();
    Some(match error.code() {
        "MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT" | "TRYAGAIN" => Unconnected::lasting(CLUSTER),
        "READONLY" => Unconnected::lasting(format!("{REPLICA} (READONLY)")),
        "NOAUTH" | "WRONGPASS" => Unconnected::lasting(format!("{}{LOGIN}", says())),
        "LOADING" | "MASTERDOWN" | "BUSY" => Unconnected::passing(says()),
        _ if lacks(error) => Unconnected::lasting(says()),
        _ => return None,
    })
}

/// What to look at where the server lets nobody in.
pub(super) const LOGIN: &str = "; check that the user and password in the store URL are right";

/// Checks a connection that has just been made: what it leads to may have changed. What is of the
/// moment, such as a full memory, is left to the operations.
pub(super) async fn recheck(live: &mut Live) -> Result<(), Unconnected> {
    match probe(live, &[PROBE.to_owned()]).await {
        Err(error) => Err(Unconnected::passing(error.to_string())),
        Ok(errors) => match errors.first().and_then(|(_, error)| Some((error, unusable(error)?))) {
            Some((error, unconnected)) if !lacks(error) => Err(unconnected),
            _ => Ok(()),
        },
    }
}

/// Whether a write would be taken. `probed` is the place of the first key that is to be tried.
pub(super) async fn check(
    live: &mut Live,
    read_only: bool,
    probes: &[String],
    probed: &mut usize,
) -> Result<(), Error> {
    if read_only {
        let mut pipeline = redis::pipe();
        pipeline.cmd("EXISTS").arg(PROBE);
        return settle(live.send(&pipeline).await?.pop());
    }
    // There may be thousands of buckets: some at a time, and the same again while one of them is refused.
    let from = if *probed < probes.len() { *probed } else { 0 };
    let next = probes.len().min(from.saturating_add(PROBED_IDLE));
    let refusals = probe(live, probes.get(from..next).unwrap_or_default()).await?;
    if let Some((_, error)) = refusals.first() {
        return Err(refused(error));
    }
    *probed = next;
    // Rights may have been taken away from single commands.
    let mut pipeline = redis::pipe();
    for words in COMMANDS {
        pipeline.add_command(command(words));
    }
    for answer in live.send(&pipeline).await? {
        if let Value::ServerError(error) = answer
            && lacks(&error)
        {
            return Err(refused(&error));
        }
    }
    Ok(())
}

fn command(words: &[&str]) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    words.iter().for_each(|word| {
        command.arg(word);
    });
    command
}

/// Writes nothing to each of some keys; gives those that are refused, with the errors.
async fn probe<'a>(
    live: &mut Live,
    names: &'a [String],
) -> Result<Vec<(&'a str, ServerError)>, Error> {
    let mut pipeline = Pipeline::with_capacity(names.len());
    for name in names {
        pipeline.cmd("SET").arg(name).arg("").arg("XX");
    }
    let answers = live.send(&pipeline).await?;
    let errors = names.iter().zip(answers).filter_map(|(name, answer)| match answer {
        Value::ServerError(error) => Some((name.as_str(), error)),
        _ => None,
    });
    Ok(errors.collect())
}

fn settle(answer: Option<Value>) -> Result<(), Error> {
    match answer {
        Some(Value::ServerError(error)) => Err(refused(&error)),
        _ => Ok(()),
    }
}

/// Why nobody is let in, and whether waiting may help.
pub(super) fn not_let_in(error: &RedisError, reason: String) -> Unconnected {
    let loading = matches!(error.code(), Some("LOADING" | "MASTERDOWN" | "BUSY"));
    match error.kind() {
        _ if loading => Unconnected::passing(reason),
        ErrorKind::Io => Unconnected::passing(format!("{reason}; check that it runs there")),
        // Another kind of server.
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
            Unconnected::lasting(format!("{reason}; check that Redis runs there"))
        }
        _ => Unconnected::lasting(format!("{reason}{LOGIN}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::COMMANDS;

    /// Names in capitals and quotes that follow a text.
    fn named(source: &str, after: &str, quote: char) -> BTreeSet<String> {
        let found = source.split(after).skip(1).filter_map(|rest| {
            let name = rest.strip_prefix(quote)?.split(quote).next()?;
            let is_name = name.len() > 2 && name.chars().all(|c| c.is_ascii_uppercase());
            is_name.then(|| name.to_owned())
        });
        found.collect()
    }

    #[test]
    fn the_commands_that_are_tried_are_those_that_are_sent() {
        let tried: BTreeSet<String> =
            COMMANDS.iter().filter_map(|words| Some((*words.first()?).to_owned())).collect();
        let (command, script) = (include_str!("command.rs"), include_str!("script.lua"));
        let mut sent = named(command, "command.arg(", '"');
        sent.extend(named(command, "redis::cmd(", '"'));
        for call in ["redis.call(", "redis.pcall(", "attempt("] {
            sent.extend(named(script, call, '\''));
        }
        assert!(sent.len() > 8, "{sent:?}");
        let untried: Vec<_> = sent.difference(&tried).collect();
        assert!(untried.is_empty(), "add {untried:?} to COMMANDS and to docs/stores.md");
        let page = include_str!("../../../../../docs/stores.md");
        for name in tried {
            assert!(page.contains(&format!("+{}", name.to_ascii_lowercase())), "{name}");
        }
    }
}
