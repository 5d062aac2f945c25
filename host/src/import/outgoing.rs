//! Spin's `allowed_outbound_hosts` (<https://spinframework.dev/v3/http-outbound>) as hosts that a guest
//! may reach.

use std::net::IpAddr;

use tally_net::HostPort;

/// A host that a guest may reach.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// As `outgoing-hosts` has it.
    pub(super) host: String,
    /// Whether it is at an address of the machine or its network, as far as the name tells.
    pub(super) is_private: bool,
    /// What is different from the original.
    pub(super) note: Option<String>,
}

impl Allowed {
    fn new(host: String, is_private: bool) -> Self {
        Self { host, is_private, note: None }
    }
}

/// Reads an entry: `SCHEME://HOST[:PORT]`.
///
/// # Errors
/// Says what is in the way.
pub(super) fn read(entry: &str) -> Result<Allowed, String> {
    let (scheme, rest) = entry.split_once("://").ok_or("it has no scheme")?;
    let rest = rest.trim_end_matches('/');
    let default = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        "redis" => Some(6379),
        "rediss" => Some(6379),
        "postgres" | "postgresql" => Some(5432),
        "*" => None,
        _ => return Err(format!("there is no interface for {scheme}")),
    };
    if rest == "self" || rest.ends_with(".spin.internal") {
        return Ok(Allowed::new(rest.to_owned(), false));
    }
    if rest.contains('/') {
        return Err("networks cannot be named; name hosts or addresses".into());
    }
    let (name, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((name, "*")) => (name, None),
        Some((name, port)) => {
            let port: u16 = port.parse().map_err(|_| "name its ports one by one".to_owned())?;
            (name, Some(port))
        }
        None => (rest, default),
    };
    if name == "*" {
        let note =
            port.map(|port| format!("'{entry}' is '*' here, which is not port {port} alone"));
        return Ok(Allowed { host: "*".into(), is_private: true, note });
    }
    let is_local = match name.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(address)) => {
            address.is_private() || address.is_loopback() || address.is_link_local()
        }
        Ok(IpAddr::V6(address)) => address.is_loopback() || address.is_unique_local(),
        Err(_) => name == "localhost",
    };
    if name.is_empty() {
        return Err("it has no host".into());
    }
    let host = match port {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    // The star of names below another is no part of a host.
    HostPort::parse(host.strip_prefix("*.").unwrap_or(&host))
        .map_err(|_| "it is no host".to_owned())?;
    Ok(Allowed::new(host, is_local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_become_hosts_and_ports() {
        for (entry, host, is_private) in [
            ("https://api.example.com", "api.example.com:443", false),
            ("http://api.example.com:8080/", "api.example.com:8080", false),
            ("https://*.example.com", "*.example.com:443", false),
            ("*://example.com:4567", "example.com:4567", false),
            ("*://example.com", "example.com", false),
            ("http://127.0.0.1:*", "127.0.0.1", true),
            ("http://[::1]:80", "[::1]:80", true),
            ("http://[::1]", "[::1]:80", true),
            ("redis://localhost", "localhost:6379", true),
            ("postgres://10.1.2.3:5433", "10.1.2.3:5433", true),
            ("postgres://db.example.com", "db.example.com:5432", false),
            ("http://self", "self", false),
            ("http://cart.spin.internal", "cart.spin.internal", false),
            ("http://*.spin.internal", "*.spin.internal", false),
            ("*://*:*", "*", true),
        ] {
            assert_eq!(read(entry), Ok(Allowed::new(host.into(), is_private)), "{entry}");
        }
        let wider = read("https://*").unwrap();
        assert!(wider.host == "*" && wider.note.unwrap().contains("port 443"));
    }

    #[test]
    fn what_cannot_be_said_here_is_told() {
        for (entry, part) in [
            ("mysql://db", "no interface for mysql"),
            ("example.com", "no scheme"),
            ("http://10.0.0.0/8", "networks"),
            ("http://h:8000..9000", "one by one"),
            ("http://", "no host"),
            ("http://:80", "no host"),
        ] {
            assert!(read(entry).unwrap_err().contains(part), "{entry}: {:?}", read(entry));
        }
    }
}
