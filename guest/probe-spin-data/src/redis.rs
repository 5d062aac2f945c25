//! Commands of Redis.

use probing::{Answer, Failure, list, pair, show};

use crate::bindings::fermyon::spin::{
    redis::{Connection, RedisParameter, RedisResult},
    variables,
};

fn connect() -> Result<Connection, Failure> {
    Ok(Connection::open(&variables::get("redis")?)?)
}

pub fn operate(path: &str, argument: &str) -> Answer {
    let (key, value) = pair(argument);
    match path {
        "/redis-open" => {
            Connection::open(&probing::decode(argument))?;
            Ok("opened".into())
        }
        "/redis-many" => {
            let mut open = Vec::new();
            loop {
                match connect() {
                    Ok(connection) => open.push(connection),
                    Err(Failure::Operation(error)) => {
                        return Ok(format!("{}: {error}", open.len()));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        "/redis-get" => Ok(show(connect()?.get(&key)?)),
        "/redis-set" => {
            connect()?.set(&key, value.as_bytes())?;
            Ok("set".into())
        }
        "/redis-incr" => Ok(connect()?.incr(&key)?.to_string()),
        "/redis-publish" => {
            connect()?.publish(&key, value.as_bytes())?;
            Ok("published".into())
        }
        // Adds, counts, and removes members of a set, and the set.
        "/redis-sets" => {
            let connection = connect()?;
            let several: Vec<String> = ["a", "b", "c"].map(Into::into).into();
            let added = connection.sadd(&key, &several)?;
            let removed = connection.srem(&key, &several[..1])?;
            let mut members = connection.smembers(&key)?;
            members.sort_unstable();
            let deleted = connection.del(&[key.clone(), "missing".into()])?;
            Ok(format!("{added} {removed} {} {deleted}", members.join(",")))
        }
        // Any command: its name and its arguments between commas.
        "/redis-execute" => {
            let mut parts = list(argument).map(probing::decode);
            let name = parts.next().unwrap_or_default();
            let parameter = |part: String| match part.parse() {
                Ok(number) => RedisParameter::Int64(number),
                Err(_) => RedisParameter::Binary(part.into_bytes()),
            };
            let parameters: Vec<_> = parts.map(parameter).collect();
            let replies = connect()?.execute(&name, &parameters)?;
            Ok(replies.iter().map(text).collect::<Vec<_>>().join(","))
        }
        _ => Err(Failure::NoSuchPath),
    }
}

fn text(reply: &RedisResult) -> String {
    match reply {
        RedisResult::Nil => "nil".into(),
        RedisResult::Status(status) => format!("status {status}"),
        RedisResult::Int64(number) => number.to_string(),
        RedisResult::Binary(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}
