//! A handler of WASI 0.3 for tests: does what its path says, misbehaviour included. What it has in common with the
//! handler of 0.2 beside it has the same paths.

mod bindings;
mod bodies;
mod fetch;
mod misbehaviour;
mod reply;
mod state;
mod surroundings;

use std::{
    str::FromStr,
    sync::atomic::{AtomicU32, Ordering},
};

use wasip3::{
    exports::http::handler::Guest,
    http::types::{ErrorCode, Fields, Request, Response},
};

struct Probe;

wasip3::http::service::export!(Probe);

/// Raised by each request to `/static`: fresh memory means that it is always 1.
static RAISED: AtomicU32 = AtomicU32::new(0);

impl Guest for Probe {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let target = request.get_path_with_query().unwrap_or_default();
        let (path, argument) = target.split_once('?').unwrap_or((&target, ""));
        Ok(match path {
            "/echo" => bodies::echo(request),
            "/hand-on" => bodies::hand_on(request),
            "/count-body" => bodies::count(request).await,
            "/length" => {
                let (length, end) = bodies::length(request).await;
                end?;
                reply::text(200, &length.to_string())
            }
            "/early" => reply::text(200, "early"),
            "/stream" => bodies::stream(number(argument)),
            "/trailers" => bodies::trailers(),
            "/request-trailers" => bodies::request_trailers(request).await,
            "/head-only" => bodies::content_length(10, b""),
            "/content-length" => bodies::content_length(number(argument), b"12345"),
            "/status" => reply::empty(number(argument), Fields::new()),
            "/informational" => bodies::informational(),
            "/bad-header" => bodies::forbidden_headers(),
            "/no-finish" => bodies::unfinished(),
            "/error-code" => {
                let reason = "a secret of the guest".to_owned();
                return Err(ErrorCode::InternalError(Some(reason)));
            }
            "/add-then-body" => reply::text(200, &state::add_then_body(argument, request).await?),
            "/body-then-add" => reply::text(200, &state::body_then_add(argument, request).await?),
            "/add-after-invalid" => state::add_after_invalid(argument),
            path => {
                if let Some(response) = misbehaviour::answer(path, argument).await {
                    return Ok(response);
                }
                match text(path, argument, &request).await? {
                    Some(text) => reply::text(200, &text),
                    None => reply::text(404, "there is nothing at this path"),
                }
            }
        })
    }
}

/// What is answered with a text of its own.
async fn text(path: &str, argument: &str, request: &Request) -> Result<Option<String>, ErrorCode> {
    Ok(Some(match path {
        "/hello" => "Hello, World!".into(),
        "/static" => (RAISED.fetch_add(1, Ordering::Relaxed) + 1).to_string(),
        "/authority" => request.get_authority().unwrap_or_else(|| "(none)".into()),
        "/header" => header(&request.get_headers(), argument),
        "/fetch" => fetch::get(argument).await.unwrap_or_else(|code| format!("{code:?}")),
        path => match state::answer(path, argument).await {
            Some(answer) => answer?,
            None => return Ok(surroundings::text(path, argument).await),
        },
    }))
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

/// An argument that is a number; 0 where it is none.
fn number<N: FromStr + Default>(argument: &str) -> N {
    argument.parse().unwrap_or_default()
}
