//! The ways in which guests write objects.

use probing::{Answer, Failure};

use crate::{bindings::wasi::blobstore::types::OutgoingValue, content, count, open};

/// Bytes of one blocking write.
const PART: usize = 4_096;

pub fn operate(path: &str, arguments: &[&str]) -> Answer {
    let [name, object, seed, length] = arguments else { return Err(Failure::NoSuchPath) };
    let (seed, length) = (count(seed)?, count(length)?);
    let container = open(name)?;
    let value = OutgoingValue::new_outgoing_value();
    let body = value.outgoing_value_write_body().map_err(|()| Failure::from("no body"))?;
    let places_first = match path {
        "/write" | "/write-half" => true,
        "/write-then-place" => false,
        _ => return Err(Failure::NoSuchPath),
    };
    if places_first {
        container.write_data(object, &value)?;
    }
    let mut written = 0;
    while written < length {
        let part = PART.min(length - written);
        body.blocking_write_and_flush(&content(seed, written, part))
            .map_err(|error| Failure::Operation(why(&error)))?;
        written += part;
    }
    drop(body);
    if !places_first {
        container.write_data(object, &value)?;
    }
    if path == "/write-half" {
        return Ok("not finished".into());
    }
    OutgoingValue::finish(value)?;
    Ok("written".into())
}

fn why(error: &wasip2::io::streams::StreamError) -> String {
    match error {
        wasip2::io::streams::StreamError::LastOperationFailed(error) => error.to_debug_string(),
        wasip2::io::streams::StreamError::Closed => "closed".into(),
    }
}
