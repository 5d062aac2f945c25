//! Who may ask the admin listener for what.
//!
//! Three kinds of strangers are kept out. A web page that a developer visits could send requests to
//! the developer's own machine: what a browser sends for a page has an `Origin`. A page whose name
//! suddenly resolves to this machine (DNS rebinding) sends none, but its own name as `Host`. Other
//! users of the machine, and of the network, do not have the token.

use std::net::IpAddr;

use http::{HeaderMap, Request, Response, StatusCode, header, uri::Authority};
use http_body_util::Full;
use hyper::body::Bytes;

use super::{
    route::Route,
    text,
    token::{self, Named},
};

/// The name of the token that a request has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Who(pub(crate) String);

/// What is asked for before a request is answered.
pub(crate) struct Gate {
    tokens: Vec<Named>,
    /// Other machines can reach the listener, so that reading needs the token as well.
    is_reachable: bool,
    /// Further names of this host.
    hosts: Vec<String>,
}

impl Gate {
    /// A gate for a listener that other machines can reach or not.
    pub(crate) fn new(tokens: Vec<Named>, is_reachable: bool, hosts: Vec<String>) -> Self {
        Self { tokens, is_reachable, hosts }
    }

    /// Checks a request that came to one of this machine's addresses, and says whose it is.
    ///
    /// # Errors
    /// The response that refuses it.
    pub(super) fn check<B>(
        &self,
        request: &Request<B>,
        route: &Route<'_>,
        local: IpAddr,
    ) -> Result<Who, Box<Response<Full<Bytes>>>> {
        if request.headers().contains_key(header::ORIGIN) {
            return Err(text(StatusCode::FORBIDDEN, "not for web pages\n".into()).into());
        }
        // Probes come by whatever name, and learn what any port scan does.
        let nobody = || Ok(Who(String::new()));
        if route.is_probe() {
            return nobody();
        }
        if !self.is_for_this_host(request, local) {
            let reason =
                "the Host header is none of this listener's names; add names with --admin-host\n";
            return Err(text(StatusCode::FORBIDDEN, reason.into()).into());
        }
        if !(self.is_reachable || route.changes()) {
            return nobody();
        }
        if self.tokens.is_empty() {
            let reason =
                format!("this host takes no deployments, as it has no token: {}\n", token::ADVICE);
            return Err(text(StatusCode::FORBIDDEN, reason).into());
        }
        let sent = bearer(request.headers());
        let who = sent.and_then(|sent| token::who(&self.tokens, sent));
        who.map(Who).ok_or_else(|| unauthorized(sent.is_some()).into())
    }

    /// Whether the request names this host, and no other (RFC 9110, 7.2).
    fn is_for_this_host<B>(&self, request: &Request<B>, local: IpAddr) -> bool {
        let mut names = request.headers().get_all(header::HOST).iter();
        let (Some(name), None) = (names.next(), names.next()) else { return false };
        let Ok(name) = Authority::try_from(name.as_bytes()) else { return false };
        let target = request.uri().authority();
        [Some(&name), target].into_iter().flatten().all(|name| self.is_own(name.host(), local))
    }

    fn is_own(&self, name: &str, local: IpAddr) -> bool {
        let name = name.trim_end_matches('.');
        let listed = |other: &String| other.eq_ignore_ascii_case(name);
        if name.eq_ignore_ascii_case("localhost") || self.hosts.iter().any(listed) {
            return true;
        }
        let bare = name.trim_matches(['[', ']']);
        bare.parse().is_ok_and(|address: IpAddr| {
            is_loopback(address) || address.to_canonical() == local.to_canonical()
        })
    }
}

/// Whether an address is this machine's own, and no other can reach it.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The token that a request has, if it has one (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// RFC 6750, 3.
fn unauthorized(has_token: bool) -> Response<Full<Bytes>> {
    let (challenge, reason) = match has_token {
        true => (
            "Bearer realm=\"tally admin\", error=\"invalid_token\"",
            "this is not the admin token of this host",
        ),
        false => ("Bearer realm=\"tally admin\"", "this needs the admin token"),
    };
    let advice = "send it as 'Authorization: Bearer TOKEN'; tally deploy takes it from TALLY_ADMIN_TOKEN or --admin-token-file, and finds that of a host of the same user on this machine by itself";
    let mut response = text(StatusCode::UNAUTHORIZED, format!("{reason}: {advice}\n"));
    let challenge = http::HeaderValue::from_static(challenge);
    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    response
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn status(gate: &Gate, method: Method, target: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        let route = Route::of(request.method(), request.uri());
        let local = "10.0.0.5".parse().unwrap();
        match gate.check(&request, &route, local) {
            Ok(_) => 200,
            Err(response) => response.status().as_u16(),
        }
    }

    fn gate(listener: &str, token: Option<&str>) -> Gate {
        let hosts = vec!["tally.internal".into()];
        let is_reachable = !is_loopback(listener.parse().unwrap());
        let token = token.and_then(crate::config::Secret::new);
        Gate::new(token.map(Named::only).into_iter().collect(), is_reachable, hosts)
    }

    #[test]
    fn only_names_of_this_host_are_answered() {
        let gate = gate("127.0.0.1", Some(TOKEN));
        for (host, expected) in [
            ("localhost", 200),
            ("LocalHost.:3001", 200),
            ("127.0.0.1:9", 200),
            ("[::1]:3001", 200),
            ("10.0.0.5:3001", 200),
            ("Tally.Internal:3001", 200),
            ("10.0.0.6", 403),
            ("evil.example", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("", 403),
            ("a b", 403),
        ] {
            assert_eq!(
                status(&gate, Method::GET, "/metrics", &[("host", host)]),
                expected,
                "{host}"
            );
        }
        let get = |target: &str, headers: &[_]| status(&gate, Method::GET, target, headers);
        assert_eq!(get("/metrics", &[]), 403);
        assert_eq!(get("/metrics", &[("host", "localhost"), ("host", "localhost")]), 403);
        assert_eq!(get("http://evil.example/metrics", &[("host", "localhost")]), 403);
        assert_eq!(get("/livez", &[("host", "a.probe")]), 200);
        assert_eq!(get("/livez", &[("host", "localhost"), ("origin", "http://localhost")]), 403);
    }

    #[test]
    fn what_changes_something_needs_the_token_and_elsewhere_all_but_probes() {
        let bearer = format!("bearer {TOKEN}");
        for (listener, reads) in
            [("127.0.0.1", 200), ("0.0.0.0", 401), ("::", 401), ("10.0.0.5", 401)]
        {
            let gate = gate(listener, Some(TOKEN));
            for (method, target, without) in [
                (Method::GET, "/livez", 200),
                (Method::GET, "/readyz", 200),
                (Method::GET, "/readyz?verbose", reads),
                (Method::GET, "/metrics", reads),
                (Method::GET, "/guests", reads),
                (Method::GET, "/nothing", reads),
                (Method::PUT, "/guests/a", 401),
            ] {
                let ask = |headers: &[(&str, &str)]| {
                    let headers = [&[("host", "localhost")], headers].concat();
                    status(&gate, method.clone(), target, &headers)
                };
                assert_eq!(ask(&[]), without, "{listener} {target}");
                assert_eq!(ask(&[("authorization", &bearer)]), 200, "{listener} {target}");
                for wrong in ["Bearer 0123456789abcdeF", "Bearer", "Basic 0123456789abcdef", ""] {
                    assert_eq!(ask(&[("authorization", wrong)]), without, "{listener} {wrong}");
                }
            }
        }
        let deploy =
            status(&gate("127.0.0.1", None), Method::PUT, "/guests/a", &[("host", "localhost")]);
        assert_eq!(deploy, 403, "without a token, nobody can deploy");
    }
}
