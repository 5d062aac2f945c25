//! State operations, several on their way at a time, and requests that change something and then fail.

use std::{env, fmt::Debug};

use futures::future::join_all;
use wasip3::{
    clocks::monotonic_clock,
    http::types::{ErrorCode, Fields, Request, Response},
    spawn_local,
    wit_bindgen::yield_async,
};

use crate::{
    bindings::{
        tally::keyvalue::extensions,
        wasi::keyvalue::{
            atomics::{self, Cas, CasError},
            batch,
            store::{self, Bucket},
        },
    },
    bodies, fetch, number, reply,
};

/// Nanoseconds that a handler waits to be thrown away, before it goes on with what it should not do.
const GRACE: u64 = 300_000_000;

type Answer = Result<String, ErrorCode>;

/// What is answered to a path, if it is one of these.
pub async fn answer(path: &str, argument: &str) -> Option<Answer> {
    let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
    Some(match path {
        "/value" => Ok(value_of(key).await),
        "/set" => set(key, value).await,
        "/add" => add(key).await.map(|count| count.to_string()),
        "/increments" => increments(number(argument)).await,
        "/reads" => reads(number(argument)).await,
        "/add-each" => add_each(key, value).await,
        "/all-shapes" => all_shapes().await,
        "/add-and-panic" => {
            let _ = add(key).await;
            panic!("asked to")
        }
        "/add-and-leave" => add_and_leave(key).await,
        "/add-and-error" => add(key).await.and(Err(ErrorCode::InternalError(None))),
        "/get-then-fail" => failed(fetch::get(argument).await),
        "/post-then-fail" => failed(fetch::post(argument).await),
        _ => return None,
    })
}

fn refused(error: impl Debug) -> ErrorCode {
    ErrorCode::InternalError(Some(format!("{error:?}")))
}

fn failed(sent: Answer) -> Answer {
    Err(refused(sent))
}

fn bucket() -> Result<Bucket, ErrorCode> {
    store::open("").map_err(refused)
}

/// Adds 1 to a key.
async fn add(key: &str) -> Result<i64, ErrorCode> {
    let bucket = bucket()?;
    atomics::increment(&bucket, key.into(), 1).await.map_err(refused)
}

/// Sets a key.
async fn set(key: &str, value: &str) -> Answer {
    let bucket = bucket()?;
    bucket.set(key.into(), value.into()).await.map_err(refused)?;
    Ok("set".into())
}

/// What a key holds.
async fn value_of(key: &str) -> String {
    let value = match store::open("") {
        Ok(bucket) => bucket.get(key.into()).await,
        Err(error) => Err(error),
    };
    value.map_or_else(
        |error| format!("{error:?}"),
        |value| value.map_or("(none)".into(), |value| String::from_utf8_lossy(&value).into_owned()),
    )
}

/// Adds 1 so often, up to 1,000 times at once; answers what came of it, in order.
async fn increments(count: usize) -> Answer {
    let bucket = bucket()?;
    let mut counts: Vec<i64> = Vec::new();
    while counts.len() < count {
        let now = (count - counts.len()).min(1_000);
        let adding = (0..now).map(|_| atomics::increment(&bucket, "many".into(), 1));
        let added: Result<Vec<_>, _> = join_all(adding).await.into_iter().collect();
        counts.extend(added.map_err(refused)?);
    }
    counts.sort_unstable();
    let counts: Vec<_> = counts.iter().map(i64::to_string).collect();
    Ok(counts.join(" "))
}

/// Reads so many keys at once.
async fn reads(count: usize) -> Answer {
    let bucket = bucket()?;
    let reading = (0..count).map(|number| bucket.get(format!("key {number}")));
    let found = join_all(reading).await.into_iter().filter(|value| matches!(value, Ok(Some(_))));
    Ok(found.count().to_string())
}

/// Adds several amounts to a key at once, and answers what each came to. The environment says in which order it asks, and
/// whether it comes to its end.
async fn add_each(key: &str, amounts: &str) -> Answer {
    let bucket = bucket()?;
    let mut amounts: Vec<i64> = amounts.split(',').filter_map(|text| text.parse().ok()).collect();
    if env::var_os("PANICS").is_some() {
        // The first is made. The others are never asked for.
        let _ = atomics::increment(&bucket, key.into(), amounts[0]).await;
        panic!("asked to");
    }
    if env::var_os("REVERSED").is_some() {
        amounts.reverse();
    }
    let adding = amounts.iter().map(|by| atomics::increment(&bucket, key.into(), *by));
    let counts = join_all(adding).await.into_iter().collect::<Result<Vec<i64>, _>>();
    let mut told: Vec<_> = amounts.iter().zip(counts.map_err(refused)?).collect();
    told.sort_unstable();
    Ok(told.iter().map(|(by, count)| format!("+{by}={count} ")).collect())
}

/// Every function of `wasi:keyvalue`, each on its way with another.
async fn all_shapes() -> Answer {
    const TTL: u64 = 3_600_000;
    let bucket = &bucket()?;
    let key = |name: &str| name.to_owned();
    let (set, for_long) = futures::join!(
        bucket.set(key("one"), b"1".into()),
        extensions::set_for(bucket, key("two"), b"2".into(), TTL),
    );
    set.and(for_long).map_err(refused)?;
    let (exists, left) =
        futures::join!(bucket.exists(key("one")), extensions::remaining(bucket, key("two")));
    let lives = matches!(left.map_err(refused)?, extensions::TimeToLive::Left(1..=TTL));
    let (extended, persisted) = futures::join!(
        extensions::extend(bucket, key("one"), TTL),
        extensions::persist(bucket, key("two")),
    );
    let before = extensions::get_and_set(bucket, key("one"), b"10".into(), None);
    let absent = extensions::set_if_absent(bucket, key("three"), b"3".into(), Some(TTL));
    let (before, absent) = futures::join!(before, absent);
    let within = extensions::increment_within(bucket, key("one"), 5, 0, 15);
    let beyond = extensions::increment_within_for(bucket, key("two"), 5, 0, 6, TTL);
    let counted = extensions::increment_for(bucket, key("four"), 4, TTL);
    let (within, beyond, counted) = futures::join!(within, beyond, counted);
    let cas = Cas::new(bucket, key("one")).await.map_err(refused)?;
    let seen = cas.current().map_err(refused)?;
    let swapped = atomics::swap(cas, b"fifteen".into()).await.is_ok();
    let cas = Cas::new(bucket, key("one")).await.map_err(refused)?;
    bucket.set(key("one"), b"meanwhile".into()).await.map_err(refused)?;
    let newer = match atomics::swap(cas, b"lost".into()).await {
        Err(CasError::CasFailed(newer)) => newer.current().map_err(refused)?,
        _ => None,
    };
    batch::set_many(bucket, vec![(key("five"), b"5".into())]).await.map_err(refused)?;
    batch::delete_many(bucket, vec![key("two"), key("three")]).await.map_err(refused)?;
    bucket.delete(key("four")).await.map_err(refused)?;
    let many = batch::get_many(bucket, vec![key("one"), key("two"), key("five")]).await;
    let many = many.map_err(refused)?;
    let (all, some) =
        futures::join!(bucket.list_keys(None), extensions::list_prefix(bucket, key("fi"), None),);
    let number = |bounded: Result<extensions::Bounded, _>| match bounded {
        Ok(extensions::Bounded::Applied(number)) => format!("applied {number}"),
        Ok(extensions::Bounded::Refused(number)) => format!("refused {number}"),
        Err(error) => format!("{error:?}"),
    };
    let text =
        |value: Option<Vec<u8>>| value.map(|value| String::from_utf8_lossy(&value).into_owned());
    Ok([
        format!("exists {exists:?} lives {lives} extended {extended:?} persisted {persisted:?}"),
        format!("before {:?} absent {absent:?}", text(before.map_err(refused)?)),
        format!("within {} beyond {} counted {counted:?}", number(within), number(beyond)),
        format!("seen {:?} swapped {swapped} newer {:?}", text(seen), text(newer)),
        format!(
            "many {:?}",
            many.into_iter()
                .map(|pair| pair.map(|(_, value)| text(Some(value))))
                .collect::<Vec<_>>()
        ),
        format!("all {:?} some {:?}", all.map_err(refused)?.keys, some.map_err(refused)?.keys),
    ]
    .join("\n"))
}

/// Answers, and adds afterwards.
async fn add_and_leave(key: &str) -> Answer {
    let key = key.to_owned();
    spawn_local(async move {
        monotonic_clock::wait_for(GRACE / 10).await;
        let _ = add(&key).await;
    });
    yield_async().await;
    Ok("later".into())
}

/// Adds, then reads the request's body, and gives up if that fails.
pub async fn add_then_body(key: &str, request: Request) -> Answer {
    let count = add(key).await?;
    bodies::length(request).await.1?;
    Ok(count.to_string())
}

/// Reads the request's body, and adds only if that does not fail.
pub async fn body_then_add(key: &str, request: Request) -> Answer {
    bodies::length(request).await.1?;
    Ok(add(key).await?.to_string())
}

/// Begins a response that cannot be sent, waits, and then adds.
pub fn add_after_invalid(key: &str) -> Response {
    let key = key.to_owned();
    let response = reply::streaming(Fields::new(), async move |mut contents, end| {
        drop(contents.write_all(b"a body that this status does not have".into()).await);
        drop(contents);
        let _ = end.write(Ok(None)).await;
        monotonic_clock::wait_for(GRACE).await;
        let _ = add(&key).await;
    });
    let _ = response.set_status_code(204);
    response
}
