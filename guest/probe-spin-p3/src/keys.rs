//! Key-value stores, each in the bucket `default`.

use futures::future::join_all;
use probing::{Answer, Failure, decode, list, pair, show};

use crate::bindings::spin::key_value::key_value::Store;

async fn bucket() -> Result<Store, Failure> {
    Ok(Store::open("default".into()).await?)
}

pub async fn operate(path: &str, argument: &str) -> Answer {
    let key = decode(argument);
    match path {
        "/open" => {
            Store::open(key).await?;
            Ok("opened".into())
        }
        "/get" => Ok(show(bucket().await?.get(key).await?)),
        "/exists" => Ok(bucket().await?.exists(key).await?.to_string()),
        "/set" => {
            let (key, value) = pair(argument);
            bucket().await?.set(key, value.into_bytes()).await?;
            Ok("set".into())
        }
        "/delete" => {
            bucket().await?.delete(key).await?;
            Ok("deleted".into())
        }
        // Sets all of `KEY=VALUE,…` at once.
        "/set-many" => {
            let bucket = bucket().await?;
            let setting = list(argument).map(|text| {
                let (key, value) = pair(text);
                bucket.set(key, value.into_bytes())
            });
            join_all(setting).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            Ok("set".into())
        }
        // Makes so many keys of 1,000 bytes, all of which begin with a prefix, at once.
        "/fill" => {
            let (prefix, count) = pair(argument);
            let bucket = bucket().await?;
            let setting = (0..count.parse()?)
                .map(|number: usize| bucket.set(format!("{prefix}{number:0>999}"), vec![]));
            join_all(setting).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            Ok("filled".into())
        }
        // All keys, in order.
        "/get-keys" => {
            let (keys, outcome) = bucket().await?.get_keys().await;
            let mut keys = keys.collect().await;
            outcome.await?;
            keys.sort_unstable();
            Ok(keys.join(","))
        }
        // How many keys came, and what came of it.
        "/count-keys" => {
            let (keys, outcome) = bucket().await?.get_keys().await;
            let count = keys.collect().await.len();
            Ok(format!("{count} {:?}", outcome.await))
        }
        // Takes one key and no more.
        "/first-key" => {
            let (mut keys, outcome) = bucket().await?.get_keys().await;
            let first = keys.next().await;
            drop(keys);
            Ok(format!("{} {:?}", first.is_some(), outcome.await))
        }
        _ => Err(Failure::NoSuchPath),
    }
}
