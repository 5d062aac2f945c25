//! The counter that ships: `POST /increment`, `GET /report`, `POST /reset`.
//!
//! It keeps nothing itself. The count lives in the default bucket under the counter's name, and
//! adding to it is one atomic operation, so any number of instances and hosts count together.
//!
//! Built without the standard library, so that the component is a single small core module that
//! imports nothing but what it uses.

#![no_std]

extern crate alloc;

mod arena;

use alloc::{format, string::String, vec, vec::Vec};

use query::Query;

use self::{
    exports::tally::plugin::handler::{Error, Guest, Request, Response},
    tally::{
        keyvalue::extensions,
        plugin::{request_headers, worker},
    },
    wasi::keyvalue::{
        atomics,
        store::{self, Bucket},
    },
};

wit_bindgen::generate!({ world: "plugin", path: "../../wit", generate_all });

struct Counter;

export!(Counter);

impl Guest for Counter {
    fn handle(request: Request) -> Result<Response, Error> {
        let query = request.query.as_deref().unwrap_or_default();
        match (request.path.as_str(), request.method.as_str()) {
            ("/increment", "POST") => increment(&parse(query)?),
            ("/reset", "POST") => reset(&parse(query)?),
            ("/report", "GET" | "HEAD") => report(&parse(query)?),
            ("/increment" | "/reset", _) => Err(Error::MethodNotAllowed(vec!["POST".into()])),
            ("/report", _) => Err(Error::MethodNotAllowed(vec!["GET".into(), "HEAD".into()])),
            _ => Err(Error::NotFound),
        }
    }
}

fn parse(query: &str) -> Result<Query<'_>, Error> {
    Query::parse(query).map_err(Error::BadRequest)
}

fn increment(query: &Query) -> Result<Response, Error> {
    let (bucket, name, by) = (bucket()?, query.name(), query.by());
    let count = match query.ttl() {
        None => atomics::increment(&bucket, name, by),
        Some(ttl) => extensions::increment_for(&bucket, name, by, ttl),
    };
    let count = count.map_err(failed)?;
    Ok(json(vec![header("cache-control", "no-store")], format!("{{\"count\":{count}}}")))
}

fn reset(query: &Query) -> Result<Response, Error> {
    // In one step, so that what others add meanwhile is in this count or in the next.
    let before = extensions::get_and_set(&bucket()?, query.name(), b"0", query.ttl());
    let before = before.map_err(failed)?;
    let body = match before.as_deref().map_or(Some(0), number) {
        Some(previous) => format!("{{\"count\":0,\"previous\":{previous}}}"),
        // It held something else, which is gone now.
        None => "{\"count\":0,\"previous\":null}".into(),
    };
    Ok(json(vec![header("cache-control", "no-store")], body))
}

fn report(query: &Query) -> Result<Response, Error> {
    let count = match bucket()?.get(query.name()).map_err(failed)? {
        None => 0,
        Some(value) => number(&value).ok_or_else(|| {
            Error::State(format!("the counter '{}' does not hold a number", query.name()))
        })?,
    };
    // The count alone decides, as the rest says only who answered.
    let tag = format!("\"{count}\"");
    if request_headers::get("if-none-match").is_some_and(|seen| matches(&seen, &tag)) {
        return Ok(Response { status: 304, headers: vec![header("etag", &tag)], body: Vec::new() });
    }
    let body = format!(
        "{{\"count\":{count},\"current_process_id\":{},\"instance\":{},\"guest_version\":\"{}\"}}",
        worker::process_id(),
        worker::instance(),
        worker::guest_version(),
    );
    Ok(json(vec![header("etag", &tag), header("cache-control", "no-cache")], body))
}

fn json(mut headers: Vec<(String, String)>, body: String) -> Response {
    headers.push(header("content-type", "application/json"));
    Response { status: 200, headers, body: body.into_bytes() }
}

fn header(name: &str, value: &str) -> (String, String) {
    (name.into(), value.into())
}

fn bucket() -> Result<Bucket, Error> {
    store::open("default").map_err(failed)
}

fn failed(error: store::Error) -> Error {
    Error::State(match error {
        store::Error::NoSuchStore => "the bucket 'default' is not configured for this guest".into(),
        store::Error::AccessDenied => "this guest may not use the bucket 'default'".into(),
        store::Error::Other(reason) => reason,
    })
}

/// The number a value holds, in the one form that can be counted on (`007` and `+7` cannot).
fn number(value: &[u8]) -> Option<i64> {
    let text = core::str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    (format!("{number}") == text).then_some(number)
}

/// Whether `If-None-Match` names the tag (RFC 9110, 13.1.2: weak comparison).
fn matches(seen: &str, tag: &str) -> bool {
    seen.trim() == "*"
        || seen.split(',').any(|one| {
            let one = one.trim();
            one.strip_prefix("W/").unwrap_or(one) == tag
        })
}
