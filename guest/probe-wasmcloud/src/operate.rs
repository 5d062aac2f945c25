//! The operations, each in the bucket `default`.

use crate::{
    Failure,
    bindings::wasmcloud::keyvalue::{
        atomics, batch,
        cas::{self, CasOptions, CasResult, Entry},
        store,
        types::{Bucket, Error, SetOptions},
    },
};

type Answer = Result<String, Failure>;

async fn bucket() -> Result<Bucket, Error> {
    store::open("default".into()).await
}

fn show(value: Option<Vec<u8>>) -> String {
    value.map_or("(none)".into(), |value| String::from_utf8_lossy(&value).into_owned())
}

fn entry(entry: Option<Entry>) -> String {
    entry.map_or("(none)".into(), |entry| {
        format!("{}@{}", String::from_utf8_lossy(&entry.value), entry.version)
    })
}

pub async fn operate(path: &str, arguments: &[&str]) -> Answer {
    if let ("/open", [name]) = (path, arguments) {
        store::open((*name).into()).await?;
        return Ok("opened".into());
    }
    let bucket = bucket().await?;
    let text = |text: &&str| (*text).to_owned();
    match (path, arguments) {
        ("/get", [key]) => Ok(show(bucket.get(text(key)).await?)),
        ("/exists", [key]) => Ok(bucket.exists(text(key)).await?.to_string()),
        ("/delete", [key]) => {
            bucket.delete(text(key)).await?;
            Ok("deleted".into())
        }
        ("/set", [key, value]) => {
            bucket.set(text(key), text(value).into_bytes(), None).await?;
            Ok("set".into())
        }
        // A time to live in milliseconds, or none; whether the key must be new.
        ("/set-with", [key, value, ttl, is_new]) => {
            let options = SetOptions { ttl_ms: ttl.parse().ok(), if_not_exists: *is_new == "new" };
            bucket.set(text(key), text(value).into_bytes(), Some(options)).await?;
            Ok("set".into())
        }
        ("/keys", [prefix]) => {
            let prefix = (!prefix.is_empty()).then(|| text(prefix));
            let (mut keys, mut cursor) = (Vec::new(), None);
            loop {
                let page = bucket.list_keys(prefix.clone(), cursor).await?;
                keys.extend(page.keys);
                match page.cursor {
                    Some(next) => cursor = Some(next),
                    None => break,
                }
            }
            keys.sort_unstable();
            keys.dedup();
            Ok(keys.join(","))
        }
        ("/add", [key, by]) => {
            Ok(atomics::increment(&bucket, text(key), by.parse()?).await?.to_string())
        }
        // So many increments that are on their way at once; the sum of what they answered.
        ("/add-many", [key, count]) => {
            let adding =
                (0..count.parse::<usize>()?).map(|_| atomics::increment(&bucket, text(key), 1));
            let mut sum = 0;
            for added in join_all(adding).await {
                sum += added?;
            }
            Ok(sum.to_string())
        }
        ("/current", [key]) => Ok(entry(cas::current(&bucket, text(key)).await?)),
        ("/swap", [key, value, version, expected]) => {
            let some = |text: &&str| (!text.is_empty()).then(|| (*text).to_owned());
            let options = CasOptions {
                require_version: some(version),
                require_value: some(expected).map(String::into_bytes),
            };
            let value = text(value).into_bytes();
            Ok(match cas::swap(&bucket, text(key), value, options).await? {
                CasResult::Swapped => "swapped".into(),
                CasResult::Stale(now) => format!("stale {}", entry(now)),
            })
        }
        ("/swap-add", [key]) => swap_add(&bucket, key).await,
        ("/get-many", keys) => {
            let keys = keys.iter().map(text).collect();
            let values = batch::get_many(&bucket, keys).await?;
            let told = |value: Option<(String, Vec<u8>)>| match value {
                Some((key, value)) => format!("{key}={}", show(Some(value))),
                None => "(none)".into(),
            };
            Ok(values.into_iter().map(told).collect::<Vec<_>>().join(","))
        }
        ("/set-many", keys) => {
            let values = keys.iter().map(|key| (text(key), text(key).into_bytes())).collect();
            batch::set_many(&bucket, values).await?;
            Ok("set".into())
        }
        ("/delete-many", keys) => {
            batch::delete_many(&bucket, keys.iter().map(text).collect()).await?;
            Ok("deleted".into())
        }
        _ => Err(Failure::NoSuchPath),
    }
}

/// Adds one by swapping until nobody else was faster: with versions, after the first time.
async fn swap_add(bucket: &Bucket, key: &str) -> Answer {
    let mut now = cas::current(bucket, key.into()).await?;
    loop {
        let Some(entry) = now else {
            let options = SetOptions { ttl_ms: None, if_not_exists: true };
            match bucket.set(key.into(), b"1".to_vec(), Some(options)).await {
                Ok(()) => return Ok("1".into()),
                Err(Error::PreconditionFailed) => {
                    now = cas::current(bucket, key.into()).await?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let next = String::from_utf8(entry.value)?.parse::<i64>()? + 1;
        let options = CasOptions { require_version: Some(entry.version), require_value: None };
        match cas::swap(bucket, key.into(), next.to_string().into_bytes(), options).await? {
            CasResult::Swapped => return Ok(next.to_string()),
            CasResult::Stale(newer) => now = newer,
        }
    }
}

/// Waits for all of some futures, which are polled together.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut is_done = true;
        for (future, output) in &mut waiting {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(ready) => *output = Some(ready),
                    std::task::Poll::Pending => is_done = false,
                }
            }
        }
        if is_done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().filter_map(|(_, output)| output).collect()
}
