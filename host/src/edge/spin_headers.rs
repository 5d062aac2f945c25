//! The `spin-…` headers of requests, which tell a guest that was written for Spin by which route it was
//! asked (<https://spinframework.dev/v3/http-trigger#additional-request-information>).

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::proxies::Client;
use crate::registry::Pattern;

/// What all of them begin with.
const PREFIX: &str = "spin-";

/// What those begin with that have a named segment.
const MATCH: &str = "spin-path-match-";

const FULL_URL: HeaderName = HeaderName::from_static("spin-full-url");
const PATH_INFO: HeaderName = HeaderName::from_static("spin-path-info");
const MATCHED_ROUTE: HeaderName = HeaderName::from_static("spin-matched-route");
const RAW_ROUTE: HeaderName = HeaderName::from_static("spin-raw-component-route");
const ROUTE: HeaderName = HeaderName::from_static("spin-component-route");
const BASE_PATH: HeaderName = HeaderName::from_static("spin-base-path");
const CLIENT: HeaderName = HeaderName::from_static("spin-client-addr");

/// Sets them in a request. What a client has sent by such a name is removed.
pub(super) fn set(headers: &mut HeaderMap, uri: &Uri, pattern: &Pattern, client: &Client) {
    let theirs = headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned();
    for name in theirs.collect::<Vec<_>>() {
        headers.remove(name);
    }
    let scheme = if client.is_secure { "https" } else { "http" };
    let authority = uri.authority().map(|authority| authority.as_str());
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let url = format!("{scheme}://{}{target}", authority.or(host).unwrap_or("localhost"));
    let (names, rest) = pattern.path.parts(uri.path());
    let route = pattern.path.text();
    let raw = if pattern.path.is_prefix() { format!("{route}/...") } else { route.to_owned() };
    let matches: Vec<_> = names
        .into_iter()
        .filter_map(|(name, value)| {
            let name =
                HeaderName::try_from(format!("{MATCH}{}", name.to_ascii_lowercase())).ok()?;
            Some((name, value.to_owned()))
        })
        .collect();
    let address = client.address.map(|address| SocketAddr::new(address, client.port).to_string());
    let fixed = [
        (FULL_URL, url),
        (PATH_INFO, rest.to_owned()),
        (MATCHED_ROUTE, raw.clone()),
        (RAW_ROUTE, raw),
        (ROUTE, route.to_owned()),
        (BASE_PATH, "/".to_owned()),
    ];
    let client = address.map(|address| (CLIENT, address));
    for (name, value) in fixed.into_iter().chain(client).chain(matches) {
        // All are of a URL or of the configuration, which have no other bytes than a header may.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Path;

    fn of(path: Path, uri: &str, sent: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let pattern = Pattern { host: None, path };
        let address = Some("192.0.2.1".parse().unwrap());
        let client = Client { address, port: 4711, is_secure: true, host: None };
        set(&mut headers, &uri.parse().unwrap(), &pattern, &client);
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        let mut lines: Vec<String> = headers.iter().map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_guest_learns_its_route_and_nothing_that_its_client_made_up() {
        let sent = [("host", "h:1"), ("spin-client-addr", "1.1.1.1:1"), ("spin-path-match-x", "x")];
        assert_eq!(
            of(Path::prefix("/api/:Tenant"), "/api/acme/a/b?c=d", &sent),
            [
                "host: h:1",
                "spin-base-path: /",
                "spin-client-addr: 192.0.2.1:4711",
                "spin-component-route: /api/:Tenant",
                "spin-full-url: https://h:1/api/acme/a/b?c=d",
                "spin-matched-route: /api/:Tenant/...",
                "spin-path-info: /a/b",
                "spin-path-match-tenant: acme",
                "spin-raw-component-route: /api/:Tenant/...",
            ]
        );
        let all = of(Path::prefix("/"), "/", &[]);
        assert!(all.contains(&"spin-matched-route: /...".to_owned()), "{all:?}");
        assert!(all.contains(&"spin-full-url: https://localhost/".to_owned()), "{all:?}");
        let exact = of(Path::exact("/a"), "http://other/a", &[("host", "h")]);
        assert!(exact.contains(&"spin-raw-component-route: /a".to_owned()), "{exact:?}");
        assert!(exact.contains(&"spin-full-url: https://other/a".to_owned()), "{exact:?}");
    }
}
