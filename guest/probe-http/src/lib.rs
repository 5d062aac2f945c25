//! A standard handler for tests: does what its path says, misbehaviour included.

mod bindings;
mod bodies;
mod fetch;
mod misbehaviour;
mod streams;
mod surroundings;
mod writes;

use std::{
    str::FromStr,
    sync::atomic::{AtomicU32, Ordering},
};

use wasip2::{
    exports::http::incoming_handler::Guest,
    http::types::{Fields, IncomingRequest, Method, ResponseOutparam},
};

struct Probe;

wasip2::http::proxy::export!(Probe);

/// Raised by each request to `/static`: fresh memory means that it is always 1.
static RAISED: AtomicU32 = AtomicU32::new(0);

impl Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        let (path, argument) = target.split_once('?').unwrap_or((&target, ""));
        match path {
            // CONNECT has no path.
            "" if matches!(request.method(), Method::Connect) => {
                connect(&request.authority().unwrap_or_default(), out)
            }
            "/echo" => bodies::echo(&request, out),
            "/count-body" => bodies::count(&request, out),
            "/length" => bodies::length(&request, out),
            "/not-modified" => bodies::not_modified(out),
            "/early" => probing::send(out, 200, "early"),
            "/stream" => bodies::stream(number(argument), out),
            "/trailers" => bodies::trailers(out),
            "/request-trailers" => bodies::request_trailers(&request, out),
            "/head-only" => bodies::content_length(10, b"", out),
            "/content-length" => bodies::content_length(number(argument), b"12345", out),
            "/status" => bodies::status(number(argument), Fields::new(), out),
            "/informational" => bodies::informational(out),
            "/bad-header" => bodies::forbidden_headers(out),
            "/trap-before" => misbehaviour::trap_before(),
            "/trap-after-head" => misbehaviour::trap_after_head(out),
            "/trap-after-stream" => misbehaviour::trap_after_stream(out),
            "/never" => drop(out),
            "/forget" => std::mem::forget(out),
            "/error-code" => misbehaviour::error_code(out),
            "/no-finish" => misbehaviour::no_finish(out),
            "/zero-writes" => misbehaviour::zero_writes(out),
            "/long-after" => misbehaviour::long_after(out),
            "/add-then-body" => writes::add_then_body(argument, &request, out),
            "/body-then-add" => writes::body_then_add(argument, &request, out),
            "/add-after-invalid" => writes::add_after_invalid(argument, out),
            "/get-then-fail" => writes::send_then_fail(false, argument, out),
            "/post-then-fail" => writes::send_then_fail(true, argument, out),
            path => match text(path, argument, &request) {
                Some(text) => probing::send(out, 200, &text),
                None => probing::send(out, 404, "there is nothing at this path"),
            },
        }
    }
}

/// Opens no tunnel, and says so, but for port 1.
fn connect(server: &str, out: ResponseOutparam) {
    match server.ends_with(":1") {
        true => probing::send(out, 200, "a tunnel"),
        false => probing::send(out, 403, &format!("no tunnel to {server}")),
    }
}

/// What is answered with a text of its own.
fn text(path: &str, argument: &str, request: &IncomingRequest) -> Option<String> {
    Some(match path {
        "/hello" => "Hello, World!".into(),
        "/static" => (RAISED.fetch_add(1, Ordering::Relaxed) + 1).to_string(),
        "/authority" => request.authority().unwrap_or_else(|| "(none)".into()),
        "/header" => header(&request.headers(), argument),
        "/headers" => names(&request.headers()),
        "/value" => writes::value(argument),
        "/ask-again" => fetch::get("/ask-again").unwrap_or_else(|code| format!("{code:?}")),
        "/fetch" => fetch::get(argument).unwrap_or_else(|code| format!("{code:?}")),
        path => return surroundings::text(path, argument),
    })
}

/// A header's values, or a word for none.
fn header(headers: &Fields, name: &str) -> String {
    let values = headers.get(name);
    if values.is_empty() {
        return "(none)".into();
    }
    let values: Vec<_> = values.iter().map(|value| String::from_utf8_lossy(value)).collect();
    values.join(", ")
}

/// The names of all headers, one for each value.
fn names(headers: &Fields) -> String {
    headers.entries().into_iter().map(|(name, _)| name + "\n").collect()
}

/// An argument that is a number; 0 where it is none.
fn number<N: FromStr + Default>(argument: &str) -> N {
    argument.parse().unwrap_or_default()
}
