//! What is sent for a step, and what an answer means.
//!
//! Most steps are one command. The others are a script, which the server runs as a whole: what no
//! single command does, and all that is recorded.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use percent_encoding::{AsciiSet, percent_decode_str, utf8_percent_encode};
use redis::{Cmd, Script, ServerError, Value};

use crate::{
    Rejection,
    error::Error,
    idempotency::{self, Digest, Record, WriteId},
    name::{Bucket, check_key},
    operation::{Action, Increments, Kind, Member, Outcome, Step, TimeToLive},
    plan::Reply,
    semantics::{left, milliseconds},
};

/// The characters of a bucket's name that would let it run into the key.
const SEPARATORS: &AsciiSet = &AsciiSet::EMPTY.add(b':').add(b'%');

const SCRIPT: &str = include_str!("script.lua");

/// What the server knows the script by.
static SCRIPT_HASH: LazyLock<String> = LazyLock::new(|| Script::new(SCRIPT).get_hash().to_owned());

/// The name of a key in Redis.
pub(super) fn place(bucket: &Bucket, key: &str) -> String {
    format!("{}:{key}", utf8_percent_encode(bucket.as_str(), SEPARATORS))
}

/// The bucket of a key in Redis; `None` for one that no guest could have written.
pub(super) fn bucket_of(name: &str) -> Option<Bucket> {
    let (prefix, key) = name.split_once(':')?;
    let bucket = Bucket::new(&percent_decode_str(prefix).decode_utf8().ok()?).ok()?;
    (check_key(key).is_ok() && place(&bucket, key) == name).then_some(bucket)
}

/// The name of a stored response. Guests can open no bucket whose name begins so.
fn response(request: &Digest) -> String {
    format!("tally.response:{:032x}", u128::from_be_bytes(*request))
}

/// A write's id as the script takes it.
fn id(write: Option<&WriteId>) -> Vec<u8> {
    write.map_or_else(Vec::new, |write| {
        [&write.request[..], &write.write.to_be_bytes(), &write.fingerprint.to_be_bytes()].concat()
    })
}

/// How the script of a step is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// By its hash: the server knows it, as a rule.
    Hash,
    /// In full: it does not.
    Full,
}

/// The command for a step; `None` for listings, which are more than one, and for a sweep, which is
/// Redis' own work.
pub(super) fn command(step: &Step, text: Text, window: Duration) -> Option<Cmd> {
    let name = || place(&step.bucket, &step.key);
    let mut command = Cmd::new();
    match (&step.action, &step.write) {
        (Action::Get, _) => command.arg("GET").arg(name()),
        (Action::Exists, _) => command.arg("EXISTS").arg(name()),
        (Action::TimeToLive, _) => command.arg("PTTL").arg(name()),
        (Action::LoadResponse, Some(write)) => command.arg("GET").arg(response(&write.request)),
        (Action::StoreResponse(body), Some(write)) => {
            let stored = [&write.fingerprint.to_be_bytes()[..], &body[..]].concat();
            command.arg("SET").arg(response(&write.request)).arg(stored);
            command.arg("NX").arg("PX").arg(milliseconds(window))
        }
        (
            Action::List { .. }
            | Action::Buckets { .. }
            | Action::Sweep { .. }
            | Action::LoadResponse
            | Action::StoreResponse(_),
            _,
        ) => return None,
        (Action::Set { value, ttl }, None) => {
            px(command.arg("SET").arg(name()).arg(&value[..]), *ttl)
        }
        (Action::GetAndSet { value, ttl }, None) => {
            px(command.arg("SET").arg(name()).arg(&value[..]).arg("GET"), *ttl)
        }
        (Action::SetIfAbsent { value, ttl }, None) => {
            px(command.arg("SET").arg(name()).arg(&value[..]).arg("NX"), *ttl)
        }
        (Action::Delete, None) => command.arg("DEL").arg(name()),
        (Action::Increment { delta, ttl: None }, None) => {
            command.arg("INCRBY").arg(name()).arg(*delta)
        }
        (Action::Expire(Some(ttl)), None) => {
            command.arg("PEXPIRE").arg(name()).arg(milliseconds(*ttl))
        }
        (Action::Increments(_), _) => return Some(increments(&[step], text, window)),
        (action, write) => script(&mut command, &name(), action, write.as_ref(), text, window),
    };
    Some(command)
}

/// The command for increments of several keys.
pub(super) fn increments(steps: &[&Step], text: Text, window: Duration) -> Cmd {
    let mut command = Cmd::new();
    call(&mut command, text).arg(steps.len());
    for step in steps {
        command.arg(place(&step.bucket, &step.key));
    }
    command.arg("increments").arg(milliseconds(window)).arg("");
    for step in steps {
        let Action::Increments(Increments { members, ttl, .. }) = &step.action else { continue };
        command.arg(life(*ttl)).arg(members.len());
        for Member { write, delta } in members {
            command.arg(id(write.as_ref())).arg(*delta);
        }
    }
    command
}

/// The beginning of a call of the script.
fn call(command: &mut Cmd, text: Text) -> &mut Cmd {
    match text {
        Text::Hash => command.arg("EVALSHA").arg(SCRIPT_HASH.as_str()),
        Text::Full => command.arg("EVAL").arg(SCRIPT),
    }
}

/// A time to live as the script takes it.
fn life(ttl: Option<Duration>) -> String {
    ttl.map_or(String::new(), |ttl| milliseconds(ttl).to_string())
}

fn px(command: &mut Cmd, ttl: Option<Duration>) -> &mut Cmd {
    match ttl {
        Some(ttl) => command.arg("PX").arg(milliseconds(ttl)),
        None => command,
    }
}

fn script<'a>(
    command: &'a mut Cmd,
    name: &str,
    action: &Action,
    write: Option<&WriteId>,
    text: Text,
    window: Duration,
) -> &'a mut Cmd {
    call(command, text).arg(1).arg(name).arg(action.kind().name());
    command.arg(milliseconds(window)).arg(id(write));
    let ttl = |ttl: &Option<Duration>| life(*ttl);
    match action {
        Action::Set { value, ttl: life }
        | Action::GetAndSet { value, ttl: life }
        | Action::SetIfAbsent { value, ttl: life } => command.arg(&value[..]).arg(ttl(life)),
        Action::Increment { delta, ttl: life } => command.arg(*delta).arg(ttl(life)),
        Action::IncrementWithin { delta, min, max, ttl: life } => {
            command.arg(*delta).arg(*min).arg(*max).arg(ttl(life))
        }
        Action::Swap { expected, value } => command
            .arg(if expected.is_some() { "1" } else { "0" })
            .arg(expected.as_ref().map_or(&[][..], |value| &value[..]))
            .arg(&value[..]),
        Action::Expire(life) => command.arg(ttl(life)),
        _ => command,
    }
}

/// What the server's answer to a step's command means.
pub(super) fn outcome(step: &Step, value: Value) -> Reply {
    if let Action::Increments(_) = step.action {
        let mut replies = outcomes(&[step], value);
        return replies.pop().unwrap_or_else(|| Err(Error::unknown("Redis did not answer")));
    }
    let unexpected = |value: Value| {
        // What a server answers to a write it did not understand says nothing of its effect.
        Err(Error::unknown(format!("Redis answered something unexpected: {value:?}")))
    };
    Ok(match (&step.action, value) {
        (_, Value::ServerError(error)) => return Err(refused(&error)),
        (Action::LoadResponse, Value::Nil) => Outcome::Response(None),
        (Action::LoadResponse, Value::BulkString(stored)) => return response_of(step, stored),
        (Action::StoreResponse(_), Value::Okay | Value::Nil) => Outcome::Done,
        (action, Value::BulkString(reply)) if is_scripted(step) => {
            return scripted(reply, action.kind());
        }
        (Action::Get | Action::GetAndSet { .. }, Value::Nil) => Outcome::Value(None),
        (Action::Get | Action::GetAndSet { .. }, Value::BulkString(bytes)) => {
            Outcome::Value(Some(bytes.into()))
        }
        (Action::Exists | Action::Expire(_), Value::Int(count)) => Outcome::Flag(count > 0),
        (Action::TimeToLive, Value::Int(-2)) => Outcome::TimeToLive(TimeToLive::Missing),
        (Action::TimeToLive, Value::Int(-1)) => Outcome::TimeToLive(TimeToLive::Unlimited),
        (Action::TimeToLive, Value::Int(milliseconds)) => Outcome::TimeToLive(left(milliseconds)),
        (Action::Set { .. }, Value::Okay) | (Action::Delete, Value::Int(_)) => Outcome::Done,
        (Action::SetIfAbsent { .. }, Value::Okay) => Outcome::Flag(true),
        (Action::SetIfAbsent { .. }, Value::Nil) => Outcome::Flag(false),
        (Action::Increment { .. }, Value::Int(count)) => Outcome::Count(count),
        (_, value) => return unexpected(value),
    })
}

/// What the server's answer to increments of several keys means for each of them.
pub(super) fn outcomes(steps: &[&Step], value: Value) -> Vec<Reply> {
    let unexpected = |value: &Value| {
        Err(Error::unknown(format!("Redis answered something unexpected: {value:?}")))
    };
    let lists = match value {
        Value::Array(lists) if lists.len() == steps.len() => lists,
        Value::ServerError(error) => return vec![Err(refused(&error)); steps.len()],
        value => return vec![unexpected(&value); steps.len()],
    };
    let each = |(step, list): (&&Step, Value)| match (&step.action, list) {
        (Action::Increments(increments), Value::Array(replies))
            if replies.len() == increments.members.len() =>
        {
            let each = replies.into_iter().map(|reply| match reply {
                Value::BulkString(reply) => scripted(reply, Kind::Increment),
                Value::ServerError(error) => Err(refused(&error)),
                value => unexpected(&value),
            });
            Ok(Outcome::Each(each.collect()))
        }
        // One for all of a key's increments.
        (_, Value::BulkString(reply)) => scripted(reply, Kind::Increment),
        (_, value) => unexpected(&value),
    };
    steps.iter().zip(lists).map(each).collect()
}

/// Whether a step's command is the script.
fn is_scripted(step: &Step) -> bool {
    let always = matches!(step.action.kind(), Kind::Swap | Kind::IncrementWithin | Kind::Expire);
    always || step.write.is_some() || matches!(step.action, Action::Increment { ttl: Some(_), .. })
}

/// What the script answered to one write.
fn scripted(reply: Vec<u8>, kind: Kind) -> Reply {
    match reply.first() {
        Some(b'R') => Err(Rejection::Reused.into()),
        Some(b'U') => Err(Error::unknown("Redis applied it, and could not record that it did")),
        Some(b'=') => Record::Outcome(Bytes::from(reply).slice(1..)).replay(kind),
        Some(b'z') => Ok(Outcome::Forgone),
        _ => idempotency::decode(&reply.into(), kind),
    }
}

fn response_of(step: &Step, stored: Vec<u8>) -> Reply {
    let fingerprint = step.write.map(|write| write.fingerprint.to_be_bytes());
    let Some((theirs, response)) = stored.split_first_chunk() else {
        return Err(Error::unknown("the stored response cannot be read"));
    };
    if Some(*theirs) != fingerprint {
        return Err(Rejection::Reused.into());
    }
    Ok(Outcome::Response(Some(Bytes::copy_from_slice(response))))
}

/// An error reply: the command was not executed. Some are the operation's own fault.
pub(super) fn refused(error: &ServerError) -> Error {
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
    fn a_bucket_is_told_from_its_keys() {
        for name in ["main", "a:b", "a%3Ab", "%", "é ", "🔑"] {
            let bucket = Bucket::new(name).unwrap();
            assert_eq!(bucket_of(&place(&bucket, "k:%3A")), Some(bucket));
        }
        // What place() never makes of any bucket and key.
        for other in
            ["main", ":key", "main:", "a%3ab:key", "a%62:key", "%:key", "%00:key", "%ff:key"]
        {
            assert_eq!(bucket_of(other), None, "{other}");
        }
    }
}
