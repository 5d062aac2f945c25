//! The counter as a handler of WASI 0.3: `wasi:http` for requests, `wasi:keyvalue` for state. Built with the standard
//! library, as most are.

mod bindings;
mod reply;

use query::Query;
use serde_json::json;
use wasip3::{
    exports::http::handler::Guest,
    http::types::{ErrorCode, Fields, Method, Request, Response},
};

use self::{
    bindings::{
        tally::{keyvalue::extensions, plugin::worker},
        wasi::keyvalue::{
            atomics,
            store::{self, Bucket},
        },
    },
    reply::{Problem, Reply},
};

struct Counter;

wasip3::http::service::export!(Counter);

impl Guest for Counter {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let headers = request.get_headers();
        let reply = answer(&request, &headers).or_else(|problem| {
            problem.into_reply(reply::header(&headers, "x-request-id").as_deref())
        })?;
        Ok(reply.into_response(matches!(request.get_method(), Method::Head)))
    }
}

fn answer(request: &Request, headers: &Fields) -> Result<Reply, Problem> {
    let target = request.get_path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = || Query::parse(query).map_err(Problem::BadRequest);
    match (path, request.get_method()) {
        ("/increment", Method::Post) => increment(&query()?),
        ("/reset", Method::Post) => reset(&query()?),
        ("/report", Method::Get | Method::Head) => report(&query()?, headers),
        ("/increment" | "/reset", _) => Err(Problem::MethodNotAllowed("POST")),
        ("/report", _) => Err(Problem::MethodNotAllowed("GET, HEAD")),
        _ => Err(Problem::NotFound),
    }
}

fn increment(query: &Query) -> Result<Reply, Problem> {
    let (bucket, name, by) = (bucket()?, query.name(), query.by());
    let count = match query.ttl() {
        None => atomics::increment(&bucket, name, by)?,
        Some(ttl) => extensions::increment_for(&bucket, name, by, ttl)?,
    };
    Ok(Reply::json(&json!({ "count": count })).with("cache-control", "no-store"))
}

fn reset(query: &Query) -> Result<Reply, Problem> {
    // In one step, so that what others add meanwhile is in this count or in the next. With
    // `wasi:keyvalue` alone it would take a loop of compare-and-swap, which a busy key starves.
    let before = extensions::get_and_set(&bucket()?, query.name(), b"0", query.ttl())?;
    // What was no number is gone now.
    let previous = before.as_deref().map_or(Some(0), number);
    let reply = Reply::json(&json!({ "count": 0, "previous": previous }));
    Ok(reply.with("cache-control", "no-store"))
}

fn report(query: &Query, headers: &Fields) -> Result<Reply, Problem> {
    let count = match bucket()?.get(query.name())? {
        None => 0,
        Some(value) => number(&value).ok_or_else(|| {
            Problem::State(format!("the counter '{}' does not hold a number", query.name()))
        })?,
    };
    // The count alone decides, as the rest says only who answered.
    let tag = format!("\"{count}\"");
    if reply::header(headers, "if-none-match").is_some_and(|seen| matches(&seen, &tag)) {
        return Ok(Reply::new(304).with("etag", tag));
    }
    let report = json!({
        "count": count,
        "current_process_id": worker::process_id(),
        "instance": worker::instance(),
        "guest_version": worker::guest_version(),
    });
    Ok(Reply::json(&report).with("etag", tag).with("cache-control", "no-cache"))
}

fn bucket() -> Result<Bucket, Problem> {
    Ok(store::open("default")?)
}

/// The number a value holds, in the one form that can be counted on (`007` and `+7` cannot).
fn number(value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Whether `If-None-Match` names the tag (RFC 9110, 13.1.2: weak comparison).
fn matches(seen: &str, tag: &str) -> bool {
    seen.trim() == "*"
        || seen.split(',').any(|one| {
            let one = one.trim();
            one.strip_prefix("W/").unwrap_or(one) == tag
        })
}
