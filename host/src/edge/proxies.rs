//! Proxies in front of this server, and what they say of their clients.
//!
//! Anybody can send `Forwarded` or `X-Forwarded-For`. They are believed from addresses that the
//! configuration names, and taken out of all other requests. Guests always see these fields as this host
//! sets them, so they can trust them, whether there is a proxy or not.
//!
//! Of the two ways to write them one is believed, `X-Forwarded-…` by default. A proxy that sets one
//! passes the other on as its client sent it.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;

use super::{authority, forwarded};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The fields that speak of a proxy's client, and that guests see only as this host sets them.
const FIELDS: [HeaderName; 7] = [
    header::FORWARDED,
    FOR,
    PROTO,
    HOST,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
];

/// Which field proxies speak of their clients with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The proxies that are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Their addresses.
    pub trusted: Vec<IpNet>,
    /// Whether they are at Unix sockets as well, which have none.
    pub unix: bool,
    /// The field in which they say who their client is.
    pub header: ProxyHeader,
    /// Whether their connections begin with the PROXY protocol.
    pub protocol: bool,
}

impl Proxies {
    /// Whether what comes from an address is believed.
    pub(super) fn trust(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }
}

/// Who a request comes from, as far as it is known: for logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Client {
    /// The address; a proxy's where that does not say whom it serves.
    pub(super) address: Option<IpAddr>,
    /// Its port; zero where a proxy does not say.
    pub(super) port: u16,
    /// Whether it spoke TLS, to the last that knows.
    pub(super) is_secure: bool,
    /// The host that it asked the proxy for.
    pub(super) host: Option<String>,
}

impl Client {
    /// What guests read in `Forwarded` and `X-Forwarded-For`.
    fn fields(&self) -> Option<(HeaderValue, HeaderValue)> {
        let address = self.address?;
        let proto = if self.is_secure { "https" } else { "http" };
        // An address with colons is written in brackets, and that in quotes (RFC 7239, 6).
        let mut text = match address {
            IpAddr::V4(address) => format!("for={address};proto={proto}"),
            IpAddr::V6(address) => format!("for=\"[{address}]\";proto={proto}"),
        };
        if let Some(host) = &self.host {
            text.push_str(&format!(";host=\"{host}\""));
        }
        Some((text.parse().ok()?, address.to_string().parse().ok()?))
    }
}

/// The other end of a connection.
pub(super) struct Peer {
    client: Client,
    is_trusted: bool,
    /// Whether it is a guest of this host.
    pub(super) is_internal: bool,
    /// What guests are told of it, the same for all requests.
    fields: Option<(HeaderValue, HeaderValue)>,
}

impl Peer {
    /// The peer of a connection from `socket`. `client` is who a proxy says is behind it, with the PROXY
    /// protocol.
    pub(super) fn new(
        socket: Option<SocketAddr>,
        client: Option<SocketAddr>,
        is_secure: bool,
        proxies: &Proxies,
    ) -> Self {
        // A listener for both families has those of IPv4 in a form of IPv6.
        let socket = client.or(socket);
        let address = socket.map(|address| address.ip().to_canonical());
        // A client behind the PROXY protocol may be a proxy as well.
        let is_trusted = address.is_some_and(|address| proxies.trust(address));
        let port = socket.map_or(0, |address| address.port());
        let client = Client { address, port, is_secure, host: None };
        let fields = client.fields();
        Self { client, is_trusted, is_internal: false, fields }
    }

    /// It came by a Unix socket, where a proxy is believed.
    pub(super) fn is_proxy_without_address(&mut self) {
        self.is_trusted = true;
    }

    /// Its address, as far as the connection tells.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.client.address
    }

    /// Whether TLS is spoken on the connection.
    pub(super) fn is_tls(&self) -> bool {
        self.client.is_secure
    }

    /// Who a request comes from. Its fields become what guests may trust.
    pub(super) fn identify(&self, headers: &mut HeaderMap, proxies: &Proxies) -> Client {
        let told = if self.is_trusted { self.told(headers, proxies) } else { None };
        if headers.keys().any(|name| is_told(name.as_str())) {
            let told: Vec<HeaderName> = headers
                .keys()
                .filter(|name| is_told(name.as_str()))
                // Of others with such a name, `X-Forwarded-Prefix` for one, guests see what a proxy sets.
                .filter(|name| !self.is_trusted || FIELDS.contains(name) || has_underscore(name))
                .cloned()
                .collect();
            for name in &told {
                headers.remove(name);
            }
        }
        let fields = match &told {
            Some(client) => client.fields(),
            None => self.fields.clone(),
        };
        let client = told.unwrap_or_else(|| self.client.clone());
        if let Some((forwarded, address)) = fields {
            headers.insert(header::FORWARDED, forwarded);
            headers.insert(FOR, address);
        }
        if self.is_trusted || client.is_secure {
            let proto = if client.is_secure { "https" } else { "http" };
            headers.insert(PROTO, HeaderValue::from_static(proto));
        }
        if let Some(host) = client.host.as_deref().and_then(|host| host.parse().ok()) {
            headers.insert(HOST, host);
        }
        client
    }

    /// Who a proxy that is believed says its client is.
    fn told(&self, headers: &HeaderMap, proxies: &Proxies) -> Option<Client> {
        let hops = match proxies.header {
            ProxyHeader::XForwarded => forwarded::list(headers, &FOR)?,
            ProxyHeader::Forwarded => forwarded::standard(headers)?,
        };
        // From the nearest to the farthest: what a trusted one says of its own client is believed, and
        // nothing behind a client that is not.
        let mut client = self.client.clone();
        for hop in hops.into_iter().rev() {
            let Some(address) = hop.address else { break };
            client.address = Some(address);
            client.port = 0;
            if let Some(is_secure) = hop.is_secure {
                client.is_secure = is_secure;
            }
            client.host = hop.host.filter(|host| authority::host(host.as_bytes()).is_some());
            if !proxies.trust(address) {
                break;
            }
        }
        if proxies.header == ProxyHeader::XForwarded {
            if let Some(is_secure) = last(headers, &PROTO).and_then(forwarded::is_secure) {
                client.is_secure = is_secure;
            }
            let host = last(headers, &HOST);
            client.host =
                host.filter(|host| authority::host(host.as_bytes()).is_some()).map(str::to_owned);
        }
        Some(client)
    }
}

/// Whether a field speaks of a proxy's client, by its name: those that are known, all that begin as the common ones do,
/// and the same with underscores, which gateways of the CGI kind take for hyphens.
fn is_told(name: &str) -> bool {
    // Most names are told apart by their first letter.
    match name.as_bytes() {
        [b'f', ..] => name == "forwarded",
        [b'x', b'-' | b'_', rest @ ..] => {
            rest.starts_with(b"forwarded") || matches!(rest, b"real-ip" | b"real_ip")
        }
        _ => false,
    }
}

/// Whether a name is written as no proxy writes it.
fn has_underscore(name: &HeaderName) -> bool {
    name.as_str().contains('_')
}

/// The last member of a field's list: what the nearest proxy has added.
fn last<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let value = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    value.rsplit(',').next().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(header: ProxyHeader) -> Proxies {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
        Proxies { trusted: trusted.into(), unix: false, header, protocol: false }
    }

    /// The client of a request with these fields from an address, and the fields that guests see.
    fn identify(
        from: &str,
        header: ProxyHeader,
        fields: &[(&'static str, &'static str)],
    ) -> (String, Vec<String>) {
        let proxies = proxies(header);
        let socket = Some(SocketAddr::new(from.parse().unwrap(), 1));
        let peer = Peer::new(socket, None, false, &proxies);
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let client = peer.identify(&mut headers, &proxies);
        let mut seen: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        seen.sort();
        (client.address.unwrap().to_string(), seen)
    }

    #[test]
    fn nobody_else_is_believed() {
        for header in [ProxyHeader::XForwarded, ProxyHeader::Forwarded] {
            let (client, seen) = identify(
                "192.0.2.1",
                header,
                &[
                    ("x-forwarded-for", "1.1.1.1"),
                    ("x-forwarded-for", "2.2.2.2"),
                    ("x-forwarded-proto", "https"),
                    ("x-forwarded-host", "evil.example"),
                    ("x-real-ip", "1.1.1.1"),
                    ("x_real_ip", "1.1.1.1"),
                    ("x-forwarded-prefix", "/evil"),
                    ("x-forwarded", "1.1.1.1"),
                    ("x_forwarded_for", "1.1.1.1"),
                    ("x-forwarded_proto", "https"),
                    ("forwarded", "for=1.1.1.1"),
                    ("accept", "*/*"),
                ],
            );
            assert_eq!(client, "192.0.2.1");
            let expected = [
                "accept: */*",
                "forwarded: for=192.0.2.1;proto=http",
                "x-forwarded-for: 192.0.2.1",
            ];
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn a_trusted_proxy_says_who_its_client_is() {
        let x = ProxyHeader::XForwarded;
        for (list, client) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7:4711", "192.0.2.7"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            // What a client puts before is its own tale.
            ("1.1.1.1, 192.0.2.7", "192.0.2.7"),
            ("1.1.1.1, 192.0.2.7, 10.0.0.9", "192.0.2.7"),
            ("nonsense, 192.0.2.7", "192.0.2.7"),
            // All are proxies: the farthest.
            ("10.0.0.7, 10.0.0.8", "10.0.0.7"),
            // What is no address ends the chain.
            ("192.0.2.7, nonsense", "10.0.0.1"),
            ("192.0.2.7, nonsense, 10.0.0.8", "10.0.0.8"),
            ("unknown", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(identify("10.0.0.1", x, &[("x-forwarded-for", list)]).0, client, "{list}");
        }
        let (_, seen) = identify(
            "10.0.0.1",
            x,
            &[
                ("x-forwarded-for", "192.0.2.7"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "shop.example"),
                ("forwarded", "for=6.6.6.6"),
            ],
        );
        assert_eq!(
            seen,
            [
                "forwarded: for=192.0.2.7;proto=https;host=\"shop.example\"",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: shop.example",
                "x-forwarded-proto: https",
            ]
        );
    }

    #[test]
    fn what_else_a_trusted_proxy_sets_is_seen() {
        let fields = [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-prefix", "/shop"),
            ("x-forwarded-port", "8443"),
            ("x_forwarded_for", "1.1.1.1"),
        ];
        let (_, seen) = identify("10.0.0.1", ProxyHeader::XForwarded, &fields);
        assert_eq!(
            seen,
            [
                "forwarded: for=192.0.2.7;proto=http",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-prefix: /shop",
                "x-forwarded-proto: http",
            ]
        );
    }

    #[test]
    fn every_field_that_is_set_here_is_known_by_its_name() {
        assert!(FIELDS.iter().all(|name| is_told(name.as_str())));
    }

    #[test]
    fn the_other_way_to_write_it_is_not_believed() {
        let fields = [("x-forwarded-for", "1.1.1.1"), ("forwarded", "for=192.0.2.7;proto=https")];
        let (client, seen) = identify("10.0.0.1", ProxyHeader::Forwarded, &fields);
        assert_eq!(client, "192.0.2.7");
        assert_eq!(
            seen,
            [
                "forwarded: for=192.0.2.7;proto=https",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-proto: https",
            ]
        );
        assert_eq!(identify("10.0.0.1", ProxyHeader::XForwarded, &fields).0, "1.1.1.1");
    }

    #[test]
    fn addresses_of_ipv4_in_the_form_of_ipv6_are_the_same() {
        let fields = [("x-forwarded-for", "192.0.2.7")];
        let (client, _) = identify("::ffff:10.0.0.1", ProxyHeader::XForwarded, &fields);
        assert_eq!(client, "192.0.2.7");
    }

    #[test]
    fn hosts_that_are_none_are_left_out() {
        let fields = [("x-forwarded-for", "192.0.2.7"), ("x-forwarded-host", "a\"; for=b")];
        let (_, seen) = identify("10.0.0.1", ProxyHeader::XForwarded, &fields);
        assert_eq!(seen.first().unwrap(), "forwarded: for=192.0.2.7;proto=http");
    }
}
