//! Commands of Redis.

use futures::future::join_all;
use probing::{Answer, Failure, decode, list, pair, show};

use crate::bindings::spin::{
    redis::redis::{Connection, RedisParameter, RedisResult},
    variables::variables,
};

async fn connect() -> Result<Connection, Failure> {
    Ok(Connection::open(variables::get("redis".into()).await?).await?)
}

pub async fn operate(path: &str, argument: &str) -> Answer {
    let (key, value) = pair(argument);
    match path {
        "/redis-open" => {
            Connection::open(decode(argument)).await?;
            Ok("opened".into())
        }
        // One after another.
        "/redis-many" => {
            let mut open = Vec::new();
            loop {
                match connect().await {
                    Ok(connection) => open.push(connection),
                    Err(Failure::Operation(error)) => {
                        return Ok(format!("{}: {error}", open.len()));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        // So many at once.
        "/redis-open-at-once" => {
            let opening = (0..decode(argument).parse()?).map(|_: usize| connect());
            let (open, failed): (Vec<_>, Vec<_>) =
                join_all(opening).await.into_iter().partition(Result::is_ok);
            Ok(format!("{} {}", open.len(), failed.len()))
        }
        "/redis-get" => Ok(show(connect().await?.get(key).await?)),
        "/redis-set" => {
            connect().await?.set(key, value.into_bytes()).await?;
            Ok("set".into())
        }
        "/redis-incr" => Ok(connect().await?.incr(key).await?.to_string()),
        // So many increments of one key at once, on one connection.
        "/redis-incr-at-once" => {
            let connection = connect().await?;
            let adding = (0..value.parse()?).map(|_: usize| connection.incr(key.clone()));
            let mut counts: Vec<i64> =
                join_all(adding).await.into_iter().collect::<Result<_, _>>()?;
            counts.sort_unstable();
            Ok(counts.iter().map(i64::to_string).collect::<Vec<_>>().join(" "))
        }
        "/redis-publish" => {
            connect().await?.publish(key, value.into_bytes()).await?;
            Ok("published".into())
        }
        // Adds, counts, and removes members of a set, and the set.
        "/redis-sets" => {
            let connection = connect().await?;
            let several: Vec<String> = ["a", "b", "c"].map(Into::into).into();
            let added = connection.sadd(key.clone(), several).await?;
            let removed = connection.srem(key.clone(), vec!["a".into()]).await?;
            let mut members = connection.smembers(key.clone()).await?;
            members.sort_unstable();
            let deleted = connection.del(vec![key, "missing".into()]).await?;
            Ok(format!("{added} {removed} {} {deleted}", members.join(",")))
        }
        // Any command: its name and its arguments between commas.
        "/redis-execute" => {
            let mut parts = list(argument).map(decode);
            let name = parts.next().unwrap_or_default();
            let parameter = |part: String| match part.parse() {
                Ok(number) => RedisParameter::Int64(number),
                Err(_) => RedisParameter::Binary(part.into_bytes()),
            };
            let parameters: Vec<_> = parts.map(parameter).collect();
            let replies = connect().await?.execute(name, parameters).await?;
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
