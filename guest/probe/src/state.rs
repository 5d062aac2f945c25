//! What the probe does with state.

use crate::{
    exports::tally::plugin::handler::{Error, Response},
    extensions, text,
    wasi::keyvalue::{
        atomics::{self, Cas, CasError},
        batch,
        store::{self, Bucket},
    },
};

/// Opens the default bucket.
pub fn bucket() -> Result<Bucket, Error> {
    store::open("").map_err(failed)
}

pub fn failed(error: store::Error) -> Error {
    Error::State(format!("{error:?}"))
}

/// Answers `path` with an argument: the query as it is.
pub fn handle(path: &str, argument: &str) -> Result<Response, Error> {
    match path {
        "/open" => text(format!("{:?}", store::open(argument).map(|_| "opened"))),
        "/get" => {
            let value = bucket()?.get(argument).map_err(failed)?;
            text(value.map_or("(none)".into(), |value| String::from_utf8_lossy(&value).into()))
        }
        "/set" => {
            let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
            bucket()?.set(key, value.as_bytes()).map_err(failed)?;
            text("set".into())
        }
        "/exists" => text(bucket()?.exists(argument).map_err(failed)?.to_string()),
        "/delete" => {
            bucket()?.delete(argument).map_err(failed)?;
            text("deleted".into())
        }
        "/add" => text(atomics::increment(&bucket()?, argument, 1).map_err(failed)?.to_string()),
        "/long-key" => {
            let key = "k".repeat(argument.parse().unwrap_or(0));
            text(atomics::increment(&bucket()?, &key, 1).map_err(failed)?.to_string())
        }
        "/long-value" => {
            let value = vec![b'v'; argument.parse().unwrap_or(0)];
            bucket()?.set("long", &value).map_err(failed)?;
            text("set".into())
        }
        // Reads one value over and over, in one call or many.
        "/read-many" => {
            let keys = vec!["long".to_owned(); argument.parse().unwrap_or(0)];
            text(batch::get_many(&bucket()?, &keys).map_err(failed)?.len().to_string())
        }
        "/read-often" => {
            let bucket = bucket()?;
            for _ in 0..argument.parse().unwrap_or(0_u32) {
                Cas::new(&bucket, "long").map_err(failed)?;
            }
            text("done".into())
        }
        // Counts, and then fails: whoever asked cannot know whether it counted.
        "/add-and-panic" => {
            atomics::increment(&bucket()?, argument, 1).map_err(failed)?;
            panic!("asked to")
        }
        // Counts, and then gives up over something else: the first of them has happened.
        "/add-and-refuse" => {
            atomics::increment(&bucket()?, argument, 1).map_err(failed)?;
            bucket()?.set("no-number", b"x").map_err(failed)?;
            atomics::increment(&bucket()?, "no-number", 1).map_err(failed)?;
            text("not reached".into())
        }
        "/add-and-complain" => {
            atomics::increment(&bucket()?, argument, 1).map_err(failed)?;
            Err(Error::BadRequest("asked to".into()))
        }
        // Counts, and then answers with a header that cannot be sent.
        "/add-and-split" => {
            atomics::increment(&bucket()?, argument, 1).map_err(failed)?;
            let headers = vec![("x-split".into(), "a\r\nb".into())];
            Ok(Response { status: 200, headers, body: vec![] })
        }
        // Counts, and answers as if nothing were wrong, whatever came of it.
        "/add-and-ignore" => {
            let _ = atomics::increment(&bucket()?, argument, 1);
            text("ignored".into())
        }
        // Counts, and tries again when that fails.
        "/add-until-it-works" => {
            let bucket = bucket()?;
            let mut tries = (0..20).map(|_| atomics::increment(&bucket, argument, 1));
            let counted = tries.find_map(Result::ok);
            counted.map_or(Err(Error::State("20 tries failed".into())), |n| text(n.to_string()))
        }
        // Counts by one, and by five if that fails.
        "/add-one-or-five" => {
            let bucket = bucket()?;
            let counted = atomics::increment(&bucket, argument, 1)
                .or_else(|_| atomics::increment(&bucket, argument, 5));
            text(counted.map_err(failed)?.to_string())
        }
        // Counts, and then computes for ever.
        "/add-and-loop" => {
            atomics::increment(&bucket()?, argument, 1).map_err(failed)?;
            loop {
                std::hint::spin_loop();
            }
        }
        // Counts, and then reads a key.
        "/add-and-get" => {
            let count = atomics::increment(&bucket()?, argument, 1).map_err(failed)?;
            bucket()?.get(argument).map_err(failed)?;
            text(count.to_string())
        }
        // Sets or deletes the keys 0 to N - 1 in one call.
        "/set-many" => {
            let value = |n: u32| (n.to_string(), b"value".to_vec());
            let pairs: Vec<_> = (0..argument.parse().unwrap_or(0)).map(value).collect();
            batch::set_many(&bucket()?, &pairs).map_err(failed)?;
            text("set".into())
        }
        "/delete-many" => {
            let keys = 0..argument.parse().unwrap_or(0_u32);
            let keys: Vec<_> = keys.map(|n| n.to_string()).collect();
            batch::delete_many(&bucket()?, &keys).map_err(failed)?;
            text("deleted".into())
        }
        "/many" => {
            let bucket = bucket()?;
            for _ in 0..argument.parse().unwrap_or(0_u32) {
                bucket.exists("many").map_err(failed)?;
            }
            text("done".into())
        }
        "/handles" => {
            let count = argument.parse().unwrap_or(0_u32);
            let buckets: Result<Vec<_>, _> = (0..count).map(|_| bucket()).collect();
            text(buckets?.len().to_string())
        }
        "/swap" => swap(),
        "/batch" => several(),
        "/list" => {
            let bucket = bucket()?;
            let mut keys = Vec::new();
            let mut cursor = None;
            loop {
                let page = bucket.list_keys(cursor.as_deref()).map_err(failed)?;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    break;
                }
            }
            keys.sort();
            text(keys.join(","))
        }
        _ => extensions::handle(path, argument),
    }
}

/// Compare-and-swap in all its outcomes; answers what was seen.
fn swap() -> Result<Response, Error> {
    let bucket = bucket()?;
    bucket.delete("swap").map_err(failed)?;
    let missing = Cas::new(&bucket, "swap").map_err(failed)?;
    let late = Cas::new(&bucket, "swap").map_err(failed)?;
    let mut seen = vec![format!("{:?}", missing.current().map_err(failed)?)];
    seen.push(format!("{:?}", atomics::swap(missing, b"first").is_ok()));
    match atomics::swap(late, b"second") {
        Err(CasError::CasFailed(newer)) => {
            let current = newer.current().map_err(failed)?.unwrap_or_default();
            seen.push(String::from_utf8_lossy(&current).into());
            seen.push(format!("{:?}", atomics::swap(newer, b"second").is_ok()));
        }
        other => seen.push(format!("{other:?}")),
    }
    let last = bucket.get("swap").map_err(failed)?.unwrap_or_default();
    seen.push(String::from_utf8_lossy(&last).into());
    text(seen.join(" "))
}

/// Several keys at once; answers what was seen.
fn several() -> Result<Response, Error> {
    let bucket = bucket()?;
    let pairs = [("one".to_owned(), b"1".to_vec()), ("two".to_owned(), b"2".to_vec())];
    batch::set_many(&bucket, &pairs).map_err(failed)?;
    let keys = ["two", "none", "one"].map(String::from);
    let before = batch::get_many(&bucket, &keys).map_err(failed)?;
    batch::delete_many(&bucket, &keys).map_err(failed)?;
    let after = batch::get_many(&bucket, &keys).map_err(failed)?;
    let show = |found: Vec<Option<(String, Vec<u8>)>>| -> Vec<String> {
        found
            .into_iter()
            .map(|pair| match pair {
                Some((key, value)) => format!("{key}={}", String::from_utf8_lossy(&value)),
                None => "-".into(),
            })
            .collect()
    };
    text(format!("{} {}", show(before).join(","), show(after).join(",")))
}
