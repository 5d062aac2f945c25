//! What every shape of a key-value store does with one key.

use probing::{Answer, Failure, decode, pair, show};

use crate::shape::{self, Bucket};

/// The bucket that operations are done in.
pub fn bucket() -> Result<Bucket, Failure> {
    Ok(shape::open("default")?)
}

/// Does an operation on one key.
pub fn operate(path: &str, argument: &str) -> Answer {
    match path {
        "/open" => {
            shape::open(&decode(argument))?;
            Ok("opened".into())
        }
        "/get" => Ok(show(bucket()?.get(&decode(argument))?)),
        "/set" => {
            let (key, value) = pair(argument);
            bucket()?.set(&key, value.as_bytes())?;
            Ok("set".into())
        }
        "/delete" => {
            bucket()?.delete(&decode(argument))?;
            Ok("deleted".into())
        }
        "/exists" => Ok(bucket()?.exists(&decode(argument))?.to_string()),
        _ => Err(Failure::NoSuchPath),
    }
}
