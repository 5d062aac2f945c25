//! A middleware of WASI 0.3 for tests, built with Spin's SDK. It adds its name to a header of each request and of each
//! response that pass it. Headers of the request make it answer by itself, or trap.

use std::hint::black_box;

use spin_sdk::{
    http::{HeaderValue, IntoResponse, Request, StatusCode, next},
    http_service,
    wasip3::http::types::{ErrorCode, Response},
};

/// Its name. Tests make middlewares with other names of as many bytes by changing these bytes of the component.
static NAME: &str = "middleware-one";

#[http_service]
async fn handle(mut request: Request) -> Result<Response, ErrorCode> {
    let name = HeaderValue::from_static(black_box(NAME));
    let is_asked = |request: &Request, header: &str| request.headers().get(header) == Some(&name);
    if is_asked(&request, "x-refuse") {
        let text = format!("refused by {}", black_box(NAME));
        return (StatusCode::UNAUTHORIZED, text).into_response();
    }
    if is_asked(&request, "x-trap") {
        std::process::abort();
    }
    let traps_late = is_asked(&request, "x-trap-late");
    request.headers_mut().append("x-passed", name.clone());
    let mut response = next(request).await?;
    if traps_late {
        std::process::abort();
    }
    response.headers_mut().append("x-answered", name);
    response.into_response()
}
