//! Requests to others.

use wasip2::http::{
    outgoing_handler,
    types::{ErrorCode, Fields, IncomingResponse, Method, OutgoingRequest, Scheme},
};

use crate::streams::Reading;

/// Gets what is at a URL: its status and its body.
pub fn get(url: &str) -> Result<String, ErrorCode> {
    read(send(request(url)?)?)
}

/// Sends a POST without a body to a URL; gives the response's status and body.
pub fn post(url: &str) -> Result<String, ErrorCode> {
    let request = request(url)?;
    request.set_method(&Method::Post).map_err(|()| ErrorCode::HttpRequestMethodInvalid)?;
    read(send(request)?)
}

fn read(response: IncomingResponse) -> Result<String, ErrorCode> {
    let body = response.consume().expect("the first time it is asked for");
    let body = Reading::new(body).to_end()?;
    Ok(format!("{} {}", response.status(), String::from_utf8_lossy(&body)))
}

/// A GET. What a URL is made of, the host checks; it may be a path alone.
fn request(url: &str) -> Result<OutgoingRequest, ErrorCode> {
    if url.starts_with('/') {
        let request = OutgoingRequest::new(Fields::new());
        request.set_path_with_query(Some(url)).map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
        return Ok(request);
    }
    let (scheme, rest) = url.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.into()),
    };
    let path = if path.is_empty() { "/" } else { path };
    let request = OutgoingRequest::new(Fields::new());
    request
        .set_scheme(Some(&scheme))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(path)))
        .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    Ok(request)
}

/// Sends a request, and waits for the head of its response.
fn send(request: OutgoingRequest) -> Result<IncomingResponse, ErrorCode> {
    let response = outgoing_handler::handle(request, None)?;
    response.subscribe().block();
    let taken = response.get().expect("it is ready");
    taken.expect("the first time it is asked for")
}
