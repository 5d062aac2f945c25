//! Compare-and-swap, which the shapes of `wasi:keyvalue` 0.2.0-draft2 have.

use probing::{Answer, Failure, decode, pair, show};

use crate::{
    bindings::wasi::keyvalue::atomics::{self, Cas, CasError},
    keys::bucket,
    several,
};

/// Does an operation.
pub fn operate(path: &str, argument: &str) -> Answer {
    match path {
        "/current" => Ok(show(Cas::new(&bucket()?, &decode(argument))?.current()?)),
        "/swap" => {
            let (key, value) = pair(argument);
            let cas = Cas::new(&bucket()?, &key)?;
            match swap(cas, value.as_bytes())? {
                None => Ok("swapped".into()),
                Some(newer) => Ok(format!("changed {}", show(newer.current()?))),
            }
        }
        "/swap-late" => late(argument),
        "/swap-add" => add(&decode(argument)),
        _ => several::operate(path, argument),
    }
}

/// Swaps. Gives the newer handle if the key has changed since.
fn swap(cas: Cas, value: &[u8]) -> Result<Option<Cas>, Failure> {
    match atomics::swap(cas, value) {
        Ok(()) => Ok(None),
        Err(CasError::CasFailed(newer)) => Ok(Some(newer)),
        Err(CasError::StoreError(error)) => Err(error.into()),
    }
}

/// Comes too late, and then swaps what has come before.
fn late(argument: &str) -> Answer {
    let (key, value) = pair(argument);
    let bucket = bucket()?;
    let cas = Cas::new(&bucket, &key)?;
    bucket.set(&key, b"late")?;
    let Some(newer) = swap(cas, value.as_bytes())? else {
        return Ok("swapped what had changed".into());
    };
    let seen = show(newer.current()?);
    Ok(match swap(newer, value.as_bytes())? {
        None => format!("changed {seen}, then swapped"),
        Some(newest) => format!("changed {seen}, then {}", show(newest.current()?)),
    })
}

/// Adds one by swapping until nobody else was faster.
fn add(key: &str) -> Answer {
    let mut cas = Cas::new(&bucket()?, key)?;
    loop {
        let count: i64 = match cas.current()? {
            None => 0,
            Some(value) => String::from_utf8(value)?.parse()?,
        };
        let next = count.checked_add(1).ok_or("overflow")?.to_string();
        match swap(cas, next.as_bytes())? {
            None => return Ok(next),
            Some(newer) => cas = newer,
        }
    }
}
