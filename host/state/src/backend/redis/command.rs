//! What is sent for a step, and what an answer means.
//!
//! Most steps are one command. The others are a script, which the server runs as a whole: what no
//! single command does, and all that is to happen once.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use percent_encoding::{AsciiSet, utf8_percent_encode};
use redis::{Cmd, Script, ServerError, Value};

use crate::{
    Rejection,
    error::Error,
    name::Bucket,
    once::{self, Digest, Token},
    operation::{Action, Kind, Outcome, Recalled, Step, TimeToLive},
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

/// The name of what is recorded of a request. Guests can open no bucket whose name begins so.
fn record(request: &Digest) -> String {
    format!("tally.once:{:032x}", u128::from_be_bytes(*request))
}

/// How the script of a step is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// By its hash: the server knows it, as a rule.
    Hash,
    /// In full: it does not.
    Full,
}

/// The command for a step; `None` for a listing, which is more than one, and for a sweep, which is
/// Redis' own work.
pub(super) fn command(step: &Step, text: Text, remember: Duration) -> Option<Cmd> {
    let name = || place(&step.bucket, &step.key);
    let mut command = Cmd::new();
    match (&step.action, step.token) {
        (Action::Get, _) => command.arg("GET").arg(name()),
        (Action::Exists, _) => command.arg("EXISTS").arg(name()),
        (Action::TimeToLive, _) => command.arg("PTTL").arg(name()),
        (Action::Recall, Some(token)) => {
            command.arg("HMGET").arg(record(&token.request)).arg("fingerprint").arg(token.write)
        }
        (Action::List { .. } | Action::Sweep { .. } | Action::Recall, _) => return None,
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
        (Action::Increment(delta), None) => command.arg("INCRBY").arg(name()).arg(*delta),
        (Action::Expire(Some(ttl)), None) => {
            command.arg("PEXPIRE").arg(name()).arg(milliseconds(*ttl))
        }
        (action, token) => script(&mut command, &name(), action, token, text, remember),
    };
    Some(command)
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
    token: Option<Token>,
    text: Text,
    remember: Duration,
) -> &'a mut Cmd {
    match text {
        Text::Hash => command.arg("EVALSHA").arg(SCRIPT_HASH.as_str()),
        Text::Full => command.arg("EVAL").arg(SCRIPT),
    };
    let operation = action.kind().name();
    match token {
        None => command.arg(1).arg(name).arg(operation).arg("").arg("").arg(""),
        Some(token) => {
            command.arg(2).arg(name).arg(record(&token.request));
            command.arg(operation).arg(&token.fingerprint[..]);
            command.arg(token.write).arg(milliseconds(remember))
        }
    };
    let ttl =
        |ttl: &Option<Duration>| ttl.map_or(String::new(), |ttl| milliseconds(ttl).to_string());
    match action {
        Action::Set { value, ttl: life }
        | Action::GetAndSet { value, ttl: life }
        | Action::SetIfAbsent { value, ttl: life } => command.arg(&value[..]).arg(ttl(life)),
        Action::Increment(delta) => command.arg(*delta),
        Action::IncrementWithin { delta, min, max } => command.arg(*delta).arg(*min).arg(*max),
        Action::Swap { expected, value } => command
            .arg(if expected.is_some() { "1" } else { "0" })
            .arg(expected.as_ref().map_or(&[][..], |value| &value[..]))
            .arg(&value[..]),
        Action::Expire(life) => command.arg(ttl(life)),
        Action::Remember(answer) => command.arg(&answer[..]),
        _ => command,
    }
}

/// What the server's answer to a step's command means.
pub(super) fn outcome(step: &Step, value: Value) -> Reply {
    let unexpected = |value: Value| {
        // What a server answers to a write it did not understand says nothing of its effect.
        Err(Error::unknown(format!("Redis answered something unexpected: {value:?}")))
    };
    let scripted = step.token.is_some() && step.action.kind() != Kind::Recall;
    Ok(match (&step.action, value) {
        (_, Value::ServerError(error)) => return Err(refused(&error)),
        (Action::Remember(_), Value::BulkString(recorded)) if recorded != b"R" => Outcome::Done,
        (action, Value::BulkString(recorded))
            if scripted
                || matches!(action.kind(), Kind::Swap | Kind::IncrementWithin | Kind::Expire) =>
        {
            return match &recorded[..] {
                b"R" => Err(Rejection::Reused.into()),
                _ => once::decode(&Bytes::from(recorded), action.kind()),
            };
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
        (Action::Increment(_), Value::Int(count)) => Outcome::Count(count),
        (Action::Recall, Value::Array(fields)) => match &fields[..] {
            [Value::BulkString(fingerprint), Value::BulkString(answer)] => {
                let Ok(fingerprint) = Digest::try_from(&fingerprint[..]) else {
                    return unexpected(Value::Array(fields));
                };
                let answer = Bytes::copy_from_slice(answer);
                Outcome::Recalled(Some(Recalled { fingerprint, answer }))
            }
            _ => Outcome::Recalled(None),
        },
        (_, value) => return unexpected(value),
    })
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
}
