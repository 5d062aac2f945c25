//! A request's head: what the RFCs ask of it beyond what hyper has checked, and the host it is for.

use http::{HeaderMap, HeaderValue, Method, Version, header, request::Parts};

use super::{authority, problem::Problem};

/// Longest request target, in bytes: what RFC 9110 (4.1) asks every server to take.
pub(super) const MAX_TARGET: usize = 8_000;

/// Checks a request's head and makes it what guests see.
///
/// # Errors
/// A [`Problem`] of the request, before any guest is asked.
pub(super) fn check(parts: &mut Parts) -> Result<(), Problem> {
    let target = parts.uri.path_and_query();
    let length = target.map_or(0, |target| target.as_str().len());
    if length > MAX_TARGET {
        return Err(Problem::TargetTooLong { limit: MAX_TARGET });
    }
    let is_path = parts.uri.path().starts_with('/');
    let is_target = match parts.method {
        // Of these, a server and its port (RFC 9112, 3.2.3; RFC 9113, 8.5).
        Method::CONNECT => parts.uri.scheme().is_none() && parts.uri.port().is_some(),
        Method::OPTIONS => is_path || parts.uri.path() == "*",
        _ => is_path,
    };
    // Another scheme is another server's (RFC 9110, 7.4); `uri` has it in lower case.
    let is_http = parts.uri.scheme_str().is_none_or(|scheme| matches!(scheme, "http" | "https"));
    if !is_target || !is_http {
        return Err(Problem::Target);
    }
    if parts.version == Version::HTTP_2 {
        check_http2(parts)?;
        join_cookies(&mut parts.headers);
    }
    name_host_once(parts)
}

/// The name of the host by which a route is found, if the request names one. After [`check`].
///
/// # Errors
/// [`Problem::Host`] for what does not follow the grammar.
pub(super) fn host(parts: &Parts) -> Result<Option<&str>, Problem> {
    let host = parts.headers.get(header::HOST);
    let host = host.map(|host| authority::host(host.as_bytes()).ok_or(Problem::Host));
    // The root's dot says no more than its absence.
    Ok(host.transpose()?.map(|host| host.trim_end_matches('.')))
}

/// Checks how an HTTP/1.1 body is encoded: `chunked`, once and alone (RFC 9112, 6.1). hyper looks at
/// the end of the last `Transfer-Encoding` only, and removes no other coding.
///
/// # Errors
/// [`Problem::Coding`]; the connection cannot serve another request, because where this one ends is
/// not known.
pub(super) fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut chunked = 0_usize;
    for field in headers.get_all(header::TRANSFER_ENCODING) {
        for coding in field.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if coding.eq_ignore_ascii_case(b"chunked") {
                chunked += 1;
            } else if !coding.is_empty() {
                return Err(Problem::Coding { is_known: false });
            }
        }
    }
    match chunked {
        0 | 1 => Ok(()),
        _ => Err(Problem::Coding { is_known: true }),
    }
}

/// Checks what `h2` leaves to others: values without spaces around them (RFC 9113, 8.2.1).
fn check_http2(parts: &Parts) -> Result<(), Problem> {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let has_blanks = |value: &HeaderValue| {
        is_blank(value.as_bytes().first()) || is_blank(value.as_bytes().last())
    };
    match parts.headers.values().any(has_blanks) {
        true => Err(Problem::Field),
        false => Ok(()),
    }
}

/// Makes one `cookie` field of several, into which HTTP/2 may split it (RFC 9113, 8.2.3). Handlers
/// know it as one.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let cookies: Vec<&[u8]> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Parts of values make a value.
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(b"; ".as_slice())) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Checks that the request names its host once, and leaves it in `Host` alone: what routes are found
/// by is what guests see. Of CONNECT, that is the server that the client wants to reach.
///
/// The target's authority counts before the header (RFC 9112, 3.2.2); in HTTP/2, where both are
/// there, they must agree (RFC 9113, 8.3.1).
fn name_host_once(parts: &mut Parts) -> Result<(), Problem> {
    let mut names = parts.headers.get_all(header::HOST).iter();
    let (first, second) = (names.next(), names.next());
    if second.is_some() {
        return Err(Problem::Host);
    }
    let Some(authority) = parts.uri.authority() else {
        // HTTP/1.0 has no need of it (RFC 9110, 7.2; RFC 9113, 8.3.1).
        let may_be_without = matches!(parts.version, Version::HTTP_09 | Version::HTTP_10);
        return if first.is_some() || may_be_without { Ok(()) } else { Err(Problem::Host) };
    };
    if first.is_none() && parts.version == Version::HTTP_11 {
        return Err(Problem::Host);
    }
    let Ok(host) = HeaderValue::from_str(authority.as_str()) else { return Err(Problem::Host) };
    if let Some(first) = first {
        let agree = first.as_bytes().eq_ignore_ascii_case(host.as_bytes());
        let is_valid = agree || authority::host(first.as_bytes()).is_some();
        if !is_valid || (parts.version == Version::HTTP_2 && !agree) {
            return Err(Problem::Host);
        }
    }
    parts.headers.insert(header::HOST, host);
    let target = parts.uri.path_and_query().map(|target| match target.as_str() {
        // Without a path, it is the root (RFC 9110, 4.2.3).
        query if query.starts_with('?') => format!("/{query}").parse(),
        target => target.parse(),
    });
    if let Some(Ok(target)) = target {
        parts.uri = target;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_joined_in_their_order() {
        let mut headers = HeaderMap::new();
        join_cookies(&mut headers);
        assert!(headers.is_empty());
        for cookie in ["a=b", "c=d", "e=f"] {
            headers.append(header::COOKIE, HeaderValue::from_static(cookie));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=b; c=d; e=f"]);
    }

    #[test]
    fn a_target_with_a_host_becomes_its_path() {
        for (target, expected) in [
            ("http://a/b?c", "/b?c"),
            ("http://a", "/"),
            ("http://a?c", "/?c"),
            ("https://a:1/?c", "/?c"),
            ("HTTP://a/b", "/b"),
        ] {
            let request = http::Request::builder().uri(target).header("host", "a");
            let mut parts = request.body(()).unwrap().into_parts().0;
            check(&mut parts).unwrap();
            assert_eq!(parts.uri.to_string(), expected, "{target}");
        }
        for target in ["ftp://a/b", "httpx://a/b", "ws://a/"] {
            let request = http::Request::builder().uri(target).header("host", "a");
            let mut parts = request.body(()).unwrap().into_parts().0;
            assert_eq!(check(&mut parts), Err(Problem::Target), "{target}");
        }
    }

    #[test]
    fn chunked_once_is_the_one_coding() {
        let check = |fields: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::TRANSFER_ENCODING, HeaderValue::from_static(field));
            }
            check_coding(&headers)
        };
        for fields in [&[][..], &["chunked"], &["Chunked "], &[", chunked,"]] {
            assert_eq!(check(fields), Ok(()), "{fields:?}");
        }
        for fields in [&["chunked, chunked"][..], &["chunked", "chunked"]] {
            assert_eq!(check(fields), Err(Problem::Coding { is_known: true }), "{fields:?}");
        }
        for fields in [&["gzip, chunked"][..], &["identity", "chunked"], &["chunked;q=1"]] {
            assert_eq!(check(fields), Err(Problem::Coding { is_known: false }), "{fields:?}");
        }
    }
}
