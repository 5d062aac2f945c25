//! Whom guests may reach, and requests that they send: to nobody, unless the guest's configuration names the host, and then
//! to no private address, unless it allows those as well.
//!
//! Both are checked: the name as the guest gives it, and each address it resolves to, as a name
//! under somebody else's control can point anywhere. The connection goes to the address that was
//! checked.

mod address;
mod database;
mod handler;
mod internal;
mod send;

use std::{net::IpAddr, sync::Arc};

use tally_net::HostPort;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

pub(crate) use self::internal::{Neighbours, guest_of, offer};
use self::{address::is_public, database::Places, internal::InFlight, send::send};
pub(super) use self::{
    database::{Bounded, Connected, Unreachable},
    handler::add_to_linker,
    send::tls_config,
};
use super::{Effects, Settings};

/// Whom a guest may send requests to. By default nobody.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outgoing {
    hosts: Vec<Host>,
    /// Addresses that only this machine or its network can reach are allowed as well.
    private: bool,
    /// Connections to databases.
    places: Places,
    /// Requests to other guests of this host.
    in_flight: InFlight,
}

/// A host that may be reached: its name in lower case and without brackets, or all below it, and
/// maybe one port only.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Host {
    name: String,
    below: bool,
    port: Option<u16>,
}

/// What is no host to allow.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is no host; write api.example.com, *.example.com, api.example.com:8443 or *")]
pub(crate) struct NoHost(String);

impl Outgoing {
    /// Reads a list of hosts.
    pub(crate) fn parse<'a>(
        hosts: impl IntoIterator<Item = &'a str>,
        private: bool,
    ) -> Result<Self, NoHost> {
        let hosts = hosts.into_iter().map(host).collect::<Result<_, _>>()?;
        Ok(Self { hosts, private, ..Self::default() })
    }

    /// Whether there is anybody whom it may send requests to.
    pub(crate) fn allows_any(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// Whether it may reach a host at a port.
    pub(super) fn allows(&self, name: &str, port: u16) -> bool {
        let name = name.to_ascii_lowercase();
        self.hosts.iter().any(|host| host.takes(&name, port))
    }

    /// Whether it may reach a host at some port.
    pub(super) fn allows_name(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.hosts.iter().any(|host| host.is_named(&name))
    }

    /// Whether it may reach an address of a host that it is allowed.
    pub(super) fn may_reach(&self, address: IpAddr) -> bool {
        self.private || is_public(address)
    }

    /// Whether it may reach a guest of this host by its name, which is as private as this host's addresses: `*`
    /// allows it only where it allows those.
    fn names(&self, name: &str, port: u16) -> bool {
        let name = name.to_ascii_lowercase();
        let mut hosts = self.hosts.iter().filter(|host| self.private || !host.name.is_empty());
        hosts.any(|host| host.takes(&name, port))
    }
}

impl Host {
    /// Whether it is one that may be reached; `name` is in lower case.
    fn takes(&self, name: &str, port: u16) -> bool {
        self.is_named(name) && self.port.is_none_or(|only| only == port)
    }

    /// Whether a name, in lower case, is this host's.
    fn is_named(&self, name: &str) -> bool {
        match self.below {
            false => self.name == name,
            // What is before the name ends in a dot, so that notexample.com is not below example.com.
            true => {
                self.name.is_empty()
                    || name.strip_suffix(&self.name).is_some_and(|rest| rest.ends_with('.'))
            }
        }
    }
}

fn host(text: &str) -> Result<Host, NoHost> {
    let wrong = || NoHost(text.to_owned());
    if text == "*" {
        return Ok(Host { name: String::new(), below: true, port: None });
    }
    // The authority of a URL, but for the star.
    let (below, rest) = match text.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let authority: http::uri::Authority = rest.parse().map_err(|_| wrong())?;
    let HostPort { host, port } = HostPort::parse(authority.as_str()).map_err(|_| wrong())?;
    if host.is_empty() || host.contains(['*', '@']) {
        return Err(wrong());
    }
    Ok(Host { name: host.to_ascii_lowercase(), below, port })
}

/// What `wasi:http` asks of this host.
pub(super) struct Hooks {
    settings: Arc<Settings>,
    effects: Effects,
}

impl Hooks {
    pub(super) fn new(settings: Arc<Settings>, effects: Effects) -> Self {
        Self { settings, effects }
    }
}

/// A guest's small answer fits without the guest waiting for it to be taken.
const BUFFERED_CHUNKS: usize = 8;

/// Bytes of one write to a body. Eight of them bound what one request holds.
const CHUNK_BYTES: usize = 64 << 10;

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    /// Asked for each header of each request: the crate's own answer allocates memory each time.
    fn is_forbidden_header(&mut self, name: &http::HeaderName) -> bool {
        is_forbidden_header(name.as_str())
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Io,
    ) -> Box<dyn Future<Output = Result<(http::Response<WasiBody>, Io), Error>> + Send> {
        let (settings, effects) = (Arc::clone(&self.settings), self.effects.clone());
        effects.look_outside();
        Box::new(async move {
            let options = options.unwrap_or_default();
            let sent = send(&settings, request, options, &effects).await;
            if let Err(error) = &sent {
                tracing::debug!(guest = %settings.name, %error, "an outgoing request failed");
            }
            sent
        })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        BUFFERED_CHUNKS
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }
}

/// Whether neither a guest nor who is asked by it sees this header: those of one connection alone, and `host`, which
/// `wasi:http` has as the authority. The same as [`wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS`].
fn is_forbidden_header(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "host"
            | "http2-settings"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forbidden_is_what_the_crate_forbids() {
        let theirs = wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS;
        for name in &theirs {
            assert!(is_forbidden_header(name.as_str()), "{name}");
        }
        let hop_by_hop =
            ["te", "trailer", "close", "content-length", "x-request-id", "cookie", "expect"];
        for name in hop_by_hop.map(http::HeaderName::from_static) {
            assert_eq!(is_forbidden_header(name.as_str()), theirs.contains(&name), "{name}");
        }
    }

    #[test]
    fn nobody_is_allowed_unless_named() {
        assert!(!Outgoing::default().allows("example.com", 443));
        let some = ["api.example.com", "*.example.org", "h:8080", "[::1]:80"];
        let some = Outgoing::parse(some, false).unwrap();
        for (name, port, allowed) in [
            ("api.example.com", 443, true),
            ("API.example.com", 80, true),
            ("example.com", 443, false),
            ("a.api.example.com", 443, false),
            ("a.example.org", 443, true),
            ("a.b.example.org", 443, true),
            ("example.org", 443, false),
            ("badexample.org", 443, false),
            ("h", 8080, true),
            ("h", 80, false),
            ("::1", 80, true),
            ("[::1]", 80, false),
        ] {
            assert_eq!(some.allows(name, port), allowed, "{name}:{port}");
        }
        assert!(Outgoing::parse(["*"], false).unwrap().allows("anything", 1));
    }

    #[test]
    fn what_is_no_host_is_explained() {
        for text in
            ["", "http://a", "a/b", "a:b", "a:", "a:0", "a:65536", "[a]", "u@h", "*", "a*b", "*.*"]
        {
            let parsed = Outgoing::parse([text], false);
            assert_eq!(parsed.is_ok(), text == "*", "{text}");
        }
    }

    /// A rule without a star allows one name, and one with a star none that does not end in it.
    #[test]
    fn fuzz_host_rules() {
        let seeds: [&[u8]; 6] = [
            b"api.example.com",
            b"*.example.com:8443",
            b"[::1]:80",
            b"127.0.0.1",
            b"*",
            b"EXAMPLE.com:65535",
        ];
        let words: [&[u8]; 10] =
            [b"*", b".", b"*.", b":", b"[", b"]", b"@", b"%2e", b"example.com", b"\xc3\xa4"];
        tally_testkit::fuzz("host_rules", &seeds, &words, |input| {
            let Ok(rule) = std::str::from_utf8(input) else { return };
            let Ok(allowed) = Outgoing::parse([rule], false) else { return };
            if rule == "*" {
                return;
            }
            let plain = rule.strip_prefix("*.").unwrap_or(rule);
            let HostPort { host, port } = HostPort::parse(plain).unwrap();
            assert!(!host.is_empty() && !host.contains(['*', '@', '/']), "{rule}");
            let (port, other) = (port.unwrap_or(443), port.map_or(443, |port| port ^ 1));
            let below = format!("a.{host}");
            let is_below = rule.starts_with("*.");
            assert_eq!(allowed.allows(host, port), !is_below, "{rule}");
            assert_eq!(allowed.allows(&below, port), is_below, "{rule}");
            assert!(!allowed.allows(&format!("a{host}"), port), "{rule}");
            assert!(!allowed.allows(&format!("{host}.example.org"), port), "{rule}");
            let any_port = plain.len() == host.len() || plain == format!("[{host}]");
            assert_eq!(allowed.allows(if is_below { &below } else { host }, other), any_port);
        });
    }
}
