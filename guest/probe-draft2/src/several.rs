//! What all shapes of `wasi:keyvalue` do besides: listing keys, counting, and several keys at once.

use probing::{Answer, Failure, decode, list, pair};

use crate::{
    bindings::wasi::keyvalue::{atomics, batch},
    keys::{self, bucket},
    shape::{self, Cursor, Delta},
};

/// Does an operation.
pub fn operate(path: &str, argument: &str) -> Answer {
    match path {
        "/keys" => page(argument),
        "/all-keys" => all_keys(),
        "/add" => {
            let (key, delta) = argument.split_once('=').unwrap_or((argument, "1"));
            let delta: Delta = delta.parse().map_err(|_| Failure::Argument("KEY or KEY=NUMBER"))?;
            Ok(atomics::increment(&bucket()?, &decode(key), delta)?.to_string())
        }
        "/get-many" => {
            let keys: Vec<String> = list(argument).map(decode).collect();
            let found = batch::get_many(&bucket()?, &keys)?;
            Ok(found.into_iter().map(shape::show_found).collect::<Vec<_>>().join(","))
        }
        "/set-many" => {
            let pairs: Vec<(String, Vec<u8>)> =
                list(argument).map(pair).map(|(key, value)| (key, value.into_bytes())).collect();
            batch::set_many(&bucket()?, &pairs)?;
            Ok("set".into())
        }
        "/delete-many" => {
            let keys: Vec<String> = list(argument).map(decode).collect();
            batch::delete_many(&bucket()?, &keys)?;
            Ok("deleted".into())
        }
        _ => keys::operate(path, argument),
    }
}

/// One page of keys: a line with these, and one with the cursor of the next.
fn page(argument: &str) -> Answer {
    let cursor = match decode(argument) {
        none if none.is_empty() => None,
        cursor => {
            Some(cursor.parse::<Cursor>().map_err(|_| Failure::Argument("a cursor, or nothing"))?)
        }
    };
    let page = shape::list_keys(&bucket()?, cursor)?;
    let cursor = page.cursor.map_or("(none)".into(), |cursor| cursor.to_string());
    Ok(format!("{}\n{cursor}", page.keys.join(",")))
}

/// The keys of all pages, in order. One that was on two pages is there twice.
fn all_keys() -> Answer {
    let bucket = bucket()?;
    let mut keys = Vec::new();
    let mut cursor = None;
    loop {
        let page = shape::list_keys(&bucket, cursor)?;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    keys.sort_unstable();
    Ok(keys.join(","))
}
