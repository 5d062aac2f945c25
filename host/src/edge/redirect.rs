//! Listeners that answer nothing themselves, and send clients to the one with TLS.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Version, header, uri::PathAndQuery};

use super::{authority, head, problem::Problem, request_id::RequestId};
use crate::runtime::Body;

/// The port that `https` has by itself (RFC 9110, 4.2.2).
const HTTPS: u16 = 443;

/// Sends a client to the same host and target over TLS: with 308, after which it uses the same method and
/// body again (RFC 9110, 15.4.9).
///
/// The head is checked as that of any request.
pub(super) fn to_https<B>(request: Request<B>, port: u16) -> Response<Body> {
    let mut parts = request.into_parts().0;
    let id = RequestId::of(&parts.headers);
    let checked = head::check(&mut parts).and_then(|()| match parts.version {
        Version::HTTP_11 => head::check_coding(&parts.headers),
        _ => Ok(()),
    });
    if let Err(problem) = checked {
        return problem.into_response(&id, false);
    }
    // Only HTTP/1.0 may do without.
    let host = parts.headers.get(header::HOST).and_then(|host| authority::host(host.as_bytes()));
    let location = host.and_then(|host| {
        let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        // The one of OPTIONS for the server as a whole.
        let target = if target == "*" { "/" } else { target };
        let port = if port == HTTPS { String::new() } else { format!(":{port}") };
        HeaderValue::from_str(&format!("https://{host}{port}{target}")).ok()
    });
    let Some(location) = location else {
        return Problem::Host.into_response(&id, false);
    };
    let mut response = Response::new(Body::Whole(Bytes::new()));
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(header::LOCATION, location);
    response
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn location(host: &[&str], target: &str, port: u16) -> Option<String> {
        let method = if target == "*" { Method::OPTIONS } else { Method::GET };
        let mut request = Request::builder().method(method).uri(target);
        for host in host {
            request = request.header(header::HOST, *host);
        }
        let response = to_https(request.body(()).unwrap(), port);
        let location = response.headers().get(header::LOCATION);
        let status = if location.is_some() { 308 } else { 400 };
        assert_eq!(response.status(), status);
        location.map(|location| location.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_client_is_sent_to_the_same_host_and_target() {
        for (host, target, port, expected) in [
            ("a.example", "/p?q=1", 443, "https://a.example/p?q=1"),
            ("a.example:80", "/", 443, "https://a.example/"),
            ("a.example:8080", "/p", 8_443, "https://a.example:8443/p"),
            ("[::1]:80", "/p", 8_443, "https://[::1]:8443/p"),
            ("b.example", "http://a.example:80/p", 443, "https://a.example/p"),
            ("a.example", "*", 443, "https://a.example/"),
        ] {
            assert_eq!(location(&[host], target, port).as_deref(), Some(expected));
        }
        for hosts in [
            [].as_slice(),
            &["a.example", "b.example"],
            &["a b"],
            &[""],
            &["evil@a.example"],
            &["a:99999"],
            &["[::g]"],
        ] {
            assert_eq!(location(hosts, "/", 443), None, "{hosts:?}");
        }
    }
}
