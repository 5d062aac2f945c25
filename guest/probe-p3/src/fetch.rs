//! Requests to others.

use wasip3::{
    http::{
        client,
        types::{ErrorCode, Fields, Method, Request, Response, Scheme},
    },
    wit_future,
};

/// Gets what is at a URL: its status and its body.
pub async fn get(url: &str) -> Result<String, ErrorCode> {
    send(request(url)?).await
}

/// Sends a POST without a body to a URL; gives the response's status and body.
pub async fn post(url: &str) -> Result<String, ErrorCode> {
    let request = request(url)?;
    request.set_method(&Method::Post).map_err(|()| ErrorCode::HttpRequestMethodInvalid)?;
    send(request).await
}

/// A GET. What a URL is made of, the host checks.
fn request(url: &str) -> Result<Request, ErrorCode> {
    let (scheme, rest) = url.split_once("://").ok_or(ErrorCode::HttpRequestUriInvalid)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.into()),
    };
    let path = if path.is_empty() { "/" } else { path };
    let (_, trailers) = wit_future::new(|| Ok(None));
    let (request, _) = Request::new(Fields::new(), None, trailers, None);
    request
        .set_scheme(Some(&scheme))
        .and_then(|()| request.set_authority(Some(authority)))
        .and_then(|()| request.set_path_with_query(Some(path)))
        .map_err(|()| ErrorCode::HttpRequestUriInvalid)?;
    Ok(request)
}

async fn send(request: Request) -> Result<String, ErrorCode> {
    let response = client::send(request).await?;
    let status = response.get_status_code();
    let (_, fared) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, fared);
    let body = body.collect().await;
    trailers.await?;
    Ok(format!("{status} {}", String::from_utf8_lossy(&body)))
}
