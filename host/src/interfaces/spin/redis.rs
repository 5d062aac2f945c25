//! `fermyon:spin/redis` and `spin:redis`: connections to Redis servers that the guest may reach.
//!
//! Each handle has a connection of its own, closed with it: a database that was selected or a
//! transaction that was begun is none of another request's business.

use std::sync::Arc;

use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, IntoConnectionInfo as _, RedisError, Value,
    aio::MultiplexedConnection, cmd,
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::OwnedSemaphorePermit,
    task::AbortHandle,
};
use tokio_rustls::TlsConnector;
use wasmtime::{
    Result, StoreContextMut,
    component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType},
};

use super::{Calls, Context, Work, connections::Readable, define, define_finished};
use crate::interfaces::{
    Outgoing,
    outgoing::{Bounded, Connected, Unreachable, tls_config},
};

/// Bytes that a reply, or a part of one, takes in the host besides its own.
const REPLY_BYTES: usize = 64;

/// Replies within replies: Redis' own commands have three or four.
const MAX_DEPTH: u32 = 16;

/// Commands that change nothing. All others may.
const READS: [&str; 39] = [
    "BITCOUNT",
    "BITPOS",
    "DBSIZE",
    "ECHO",
    "EXISTS",
    "GET",
    "GETBIT",
    "GETRANGE",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HSCAN",
    "HVALS",
    "KEYS",
    "LINDEX",
    "LLEN",
    "LRANGE",
    "MGET",
    "PING",
    "PTTL",
    "SCAN",
    "SCARD",
    "SELECT",
    "SISMEMBER",
    "SMEMBERS",
    "SSCAN",
    "STRLEN",
    "TIME",
    "TTL",
    "TYPE",
    "XLEN",
    "XRANGE",
    "ZCARD",
    "ZRANGE",
    "ZRANK",
    "ZSCORE",
];

/// Commands after which a connection no longer has one reply for each command.
const REFUSED: [&str; 11] = [
    "CLIENT",
    "HELLO",
    "MONITOR",
    "PSUBSCRIBE",
    "PSYNC",
    "PUNSUBSCRIBE",
    "QUIT",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SYNC",
    "UNSUBSCRIBE",
];

/// `redis.error`.
#[expect(clippy::enum_variant_names, reason = "the interface's own")]
#[derive(Debug, PartialEq, ComponentType, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "invalid-address")]
    InvalidAddress,
    #[component(name = "too-many-connections")]
    TooManyConnections,
    #[component(name = "type-error")]
    TypeError,
    #[component(name = "other")]
    Other(String),
}

/// `redis.redis-parameter`.
#[derive(Clone, ComponentType, Lift)]
#[component(variant)]
enum Parameter {
    #[component(name = "int64")]
    Int64(i64),
    #[component(name = "binary")]
    Binary(Vec<u8>),
}

/// `redis.redis-result`.
#[derive(Debug, PartialEq, ComponentType, Lower)]
#[component(variant)]
enum Reply {
    #[component(name = "nil")]
    Nil,
    #[component(name = "status")]
    Status(String),
    #[component(name = "int64")]
    Int64(i64),
    #[component(name = "binary")]
    Binary(Vec<u8>),
}

/// A guest's connection to a server.
#[derive(Clone)]
#[allow(unreachable_pub, reason = "it is the type of a resource")]
pub(super) struct Connection {
    client: MultiplexedConnection,
    readable: Readable,
    _driver: Arc<Driver>,
}

/// What moves a connection, and the guest's place for it. Ends both when dropped, whatever is on its way.
pub(super) struct Driver {
    pub(super) task: AbortHandle,
    pub(super) _place: OwnedSemaphorePermit,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Handle = Resource<Connection>;
type Answer<T> = Result<T, Error>;

fn open(context: &mut Context, (address,): (String,)) -> Result<Work<Answer<Connection>>> {
    context.effects.look_outside();
    let settings = Arc::clone(&context.settings);
    let connections = context.connections();
    let (has_room, readable) = (connections.redis.has_room(), connections.readable.clone());
    Ok(Box::pin(async move {
        if !has_room {
            return Ok(Err(Error::TooManyConnections));
        }
        Ok(connect(&settings.outgoing, &address, readable).await)
    }))
}

async fn connect(allowed: &Outgoing, address: &str, readable: Readable) -> Answer<Connection> {
    // The crate is built without TLS of its own, and refuses URLs that ask for it.
    let (plain, tls) = match address.strip_prefix("rediss://") {
        Some(rest) => (format!("redis://{rest}"), true),
        None => (address.to_owned(), false),
    };
    let info = plain.into_connection_info().map_err(|_| Error::InvalidAddress)?;
    // A socket in the file system is the host's.
    let ConnectionAddr::Tcp(host, port) = info.addr() else { return Err(Error::InvalidAddress) };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let connecting = allowed.connect(host, *port).await;
    let Connected { stream, place } = connecting.map_err(|error| match error {
        Unreachable::TooMany => Error::TooManyConnections,
        error => Error::Other(error.to_string()),
    })?;
    let charged = readable.clone();
    let stream = Bounded::new(stream, move |bytes| charged.charge(bytes));
    let login = info.redis_settings();
    if !tls {
        return log_in(stream, login, place, readable).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Error::InvalidAddress)?;
    let config = tls_config().ok_or_else(|| Error::Other("TLS cannot be used".into()))?;
    let encrypted = TlsConnector::from(config).connect(name, stream).await;
    let stream = encrypted.map_err(|error| Error::Other(format!("TLS: {error}")))?;
    log_in(stream, login, place, readable).await
}

async fn log_in(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    login: &redis::RedisConnectionInfo,
    place: OwnedSemaphorePermit,
    readable: Readable,
) -> Answer<Connection> {
    // The request has a time limit of its own.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let made = MultiplexedConnection::new_with_config(login, stream, config);
    // Logging in waits for what moves the connection, which is within this future until it is made.
    let (client, driver) = made.await.map_err(|error| explain(&error))?;
    let task = tokio::spawn(driver).abort_handle();
    let driver = Arc::new(Driver { task, _place: place });
    Ok(Connection { client, readable, _driver: driver })
}

/// The handle of a connection that was made.
fn opened(
    mut store: StoreContextMut<'_, Context>,
    connection: Answer<Connection>,
) -> Result<Answer<Handle>> {
    let handle = connection.and_then(|connection| {
        let handle = store.data_mut().connections().redis.push(connection);
        handle.ok_or(Error::TooManyConnections)
    });
    Ok(handle)
}

/// Sends a command and waits for its reply. A command that may change something is an effect of the
/// request from the moment it is sent. Unless it runs a script, it has changed nothing if its reply is
/// an error.
fn ask<T: Send + 'static>(
    context: &mut Context,
    this: &Handle,
    command: Cmd,
    effect: Effect,
    read: fn(Value, &Readable) -> Answer<T>,
) -> Result<Work<Answer<T>>> {
    context.effects.look_outside();
    let effects = context.effects.clone();
    let mut connection = context.connections().redis.get(this)?.clone();
    Ok(Box::pin(async move {
        if effect != Effect::None {
            effects.begin_elsewhere();
        }
        let reply = connection.client.send_packed_command(&command).await;
        let reply = reply.and_then(Value::extract_error);
        match (&reply, effect) {
            (_, Effect::None) => {}
            (Ok(_), _) => effects.end_elsewhere(true),
            (Err(error), Effect::Command) if is_refusal(error) => effects.end_elsewhere(false),
            // It may have been applied, or a part of it.
            (Err(_), _) => {}
        }
        Ok(match (reply, connection.readable.exceeded()) {
            (Ok(value), _) => read(value, &connection.readable),
            (Err(_), Some(exceeded)) => Err(Error::Other(exceeded.to_string())),
            (Err(error), None) => Err(explain(&error)),
        })
    }))
}

/// What a command may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    None,
    /// All of it or nothing.
    Command,
    /// Some of it, if it fails in the middle.
    Several,
}

/// Whether the server has answered that it did not do it.
fn is_refusal(error: &RedisError) -> bool {
    matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension)
}

fn explain(error: &RedisError) -> Error {
    let text = error.to_string();
    let is_type = error.kind() == redis::ErrorKind::UnexpectedReturnType
        || error.code() == Some("WRONGTYPE")
        || text.contains("not an integer");
    if is_type { Error::TypeError } else { Error::Other(text) }
}

fn nothing(_: Value, _: &Readable) -> Answer<()> {
    Ok(())
}

fn number(value: Value, _: &Readable) -> Answer<i64> {
    match value {
        Value::Int(number) => Ok(number),
        _ => Err(Error::TypeError),
    }
}

fn count(value: Value, readable: &Readable) -> Answer<u32> {
    u32::try_from(number(value, readable)?).map_err(|_| Error::TypeError)
}

fn payload(value: Value, _: &Readable) -> Answer<Option<Vec<u8>>> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        _ => Err(Error::TypeError),
    }
}

fn members(value: Value, readable: &Readable) -> Answer<Vec<String>> {
    let (Value::Array(members) | Value::Set(members)) = value else { return Err(Error::TypeError) };
    let text = |member| match member {
        Value::BulkString(bytes) => {
            charge(readable)?;
            String::from_utf8(bytes).map_err(|_| Error::TypeError)
        }
        _ => Err(Error::TypeError),
    };
    members.into_iter().map(text).collect()
}

fn charge(readable: &Readable) -> Answer<()> {
    readable.charge(REPLY_BYTES).map_err(|error| Error::Other(error.to_string()))
}

fn replies(value: Value, readable: &Readable) -> Answer<Vec<Reply>> {
    let mut all = Vec::new();
    flatten(value, readable, &mut all, 0)?;
    Ok(all)
}

/// Puts replies within replies one after the other, as Spin does.
fn flatten(value: Value, readable: &Readable, all: &mut Vec<Reply>, depth: u32) -> Answer<()> {
    if depth > MAX_DEPTH {
        return Err(Error::TypeError);
    }
    charge(readable)?;
    let within = depth.saturating_add(1);
    match value {
        Value::Nil => all.push(Reply::Nil),
        Value::Int(number) => all.push(Reply::Int64(number)),
        Value::BulkString(bytes) => all.push(Reply::Binary(bytes)),
        Value::SimpleString(status) => all.push(Reply::Status(status)),
        Value::Okay => all.push(Reply::Status("OK".into())),
        Value::Array(values) | Value::Set(values) => {
            for value in values {
                flatten(value, readable, all, within)?;
            }
        }
        Value::Map(pairs) => {
            for (key, value) in pairs {
                flatten(key, readable, all, within)?;
                flatten(value, readable, all, within)?;
            }
        }
        _ => return Err(Error::TypeError),
    }
    Ok(())
}

fn publish(
    context: &mut Context,
    (this, channel, payload): (Handle, String, Vec<u8>),
) -> Result<Work<Answer<()>>> {
    let command = cmd("PUBLISH").arg(channel).arg(payload).take();
    ask(context, &this, command, Effect::Command, nothing)
}

fn get(
    context: &mut Context,
    (this, key): (Handle, String),
) -> Result<Work<Answer<Option<Vec<u8>>>>> {
    ask(context, &this, cmd("GET").arg(key).take(), Effect::None, payload)
}

fn set(
    context: &mut Context,
    (this, key, value): (Handle, String, Vec<u8>),
) -> Result<Work<Answer<()>>> {
    ask(context, &this, cmd("SET").arg(key).arg(value).take(), Effect::Command, nothing)
}

fn incr(context: &mut Context, (this, key): (Handle, String)) -> Result<Work<Answer<i64>>> {
    ask(context, &this, cmd("INCRBY").arg(key).arg(1).take(), Effect::Command, number)
}

fn del(context: &mut Context, (this, keys): (Handle, Vec<String>)) -> Result<Work<Answer<u32>>> {
    ask(context, &this, cmd("DEL").arg(keys).take(), Effect::Command, count)
}

fn sadd(
    context: &mut Context,
    (this, key, values): (Handle, String, Vec<String>),
) -> Result<Work<Answer<u32>>> {
    ask(context, &this, cmd("SADD").arg(key).arg(values).take(), Effect::Command, count)
}

fn smembers(
    context: &mut Context,
    (this, key): (Handle, String),
) -> Result<Work<Answer<Vec<String>>>> {
    ask(context, &this, cmd("SMEMBERS").arg(key).take(), Effect::None, members)
}

fn srem(
    context: &mut Context,
    (this, key, values): (Handle, String, Vec<String>),
) -> Result<Work<Answer<u32>>> {
    ask(context, &this, cmd("SREM").arg(key).arg(values).take(), Effect::Command, count)
}

fn execute(
    context: &mut Context,
    (this, name, parameters): (Handle, String, Vec<Parameter>),
) -> Result<Work<Answer<Vec<Reply>>>> {
    let upper = name.to_ascii_uppercase();
    if REFUSED.contains(&&*upper) {
        let reason =
            format!("{upper} cannot be used on a connection for commands and their replies");
        return Ok(Box::pin(async { Ok(Err(Error::Other(reason))) }));
    }
    let effect = match &*upper {
        read if READS.contains(&read) => Effect::None,
        "EVAL" | "EVALSHA" | "FCALL" | "EXEC" => Effect::Several,
        _ => Effect::Command,
    };
    let mut command = cmd(&name);
    for parameter in parameters {
        match parameter {
            Parameter::Int64(number) => command.arg(number),
            Parameter::Binary(bytes) => command.arg(bytes),
        };
    }
    ask(context, &this, command, effect, replies)
}

/// Offers version 2 to a linker.
///
/// # Errors
/// When it is there already, which is a bug.
pub(super) fn add_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    add(&mut linker.instance("fermyon:spin/redis@2.0.0")?, Calls::InTurn)
}

/// Offers version 3 to a linker, which is the same but for `async`.
///
/// # Errors
/// As for all that is `async`.
pub(super) fn add_0_3_to_linker(linker: &mut Linker<Context>) -> Result<()> {
    add(&mut linker.instance("spin:redis/redis@3.0.0")?, Calls::AtOnce)
}

fn add(instance: &mut LinkerInstance<'_, Context>, calls: Calls) -> Result<()> {
    instance.resource(
        "connection",
        ResourceType::host::<Connection>(),
        |mut store: StoreContextMut<'_, Context>, rep| {
            store.data_mut().connections().redis.remove(rep);
            Ok(())
        },
    )?;
    define_finished(instance, calls, "[static]connection.open", open, opened)?;
    define(instance, calls, "[method]connection.publish", publish)?;
    define(instance, calls, "[method]connection.get", get)?;
    define(instance, calls, "[method]connection.set", set)?;
    define(instance, calls, "[method]connection.incr", incr)?;
    define(instance, calls, "[method]connection.del", del)?;
    define(instance, calls, "[method]connection.sadd", sadd)?;
    define(instance, calls, "[method]connection.smembers", smembers)?;
    define(instance, calls, "[method]connection.srem", srem)?;
    define(instance, calls, "[method]connection.execute", execute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(value: Value) -> Answer<Vec<Reply>> {
        replies(value, &Readable::of(10_000))
    }

    #[test]
    fn replies_within_replies_are_put_one_after_the_other() {
        let inner = Value::Array(vec![Value::Int(1), Value::Nil]);
        let value = Value::Array(vec![Value::Okay, inner, Value::BulkString(vec![7])]);
        let status = Reply::Status("OK".into());
        let all = [status, Reply::Int64(1), Reply::Nil, Reply::Binary(vec![7])];
        assert_eq!(flat(value), Ok(all.into()));
        let deep = (0..20).fold(Value::Nil, |value, _| Value::Array(vec![value]));
        assert_eq!(flat(deep), Err(Error::TypeError));
        let many = Value::Array(vec![Value::Nil; 1_000]);
        assert!(matches!(flat(many), Err(Error::Other(reason)) if reason.contains("memory")));
    }
}
