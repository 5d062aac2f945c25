//! Reading `X-Forwarded-For` and `Forwarded` (RFC 7239, 4).

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};

/// Hops that are looked at: more than any chain of proxies has.
const MOST_HOPS: usize = 64;

/// What a proxy says of whom it serves.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Hop {
    /// None where it is hidden, or no address.
    pub(super) address: Option<IpAddr>,
    pub(super) is_secure: Option<bool>,
    pub(super) host: Option<String>,
}

/// The hops of a list of addresses, in order: the nearest last. None where there is no such field, or a
/// value that is not text.
pub(super) fn list(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    for value in headers.get_all(name) {
        let members = value.to_str().ok()?.split(',');
        hops.extend(
            members.map(|member| Hop { address: address(member.trim()), ..Hop::default() }),
        );
    }
    shorten(hops)
}

/// The hops of `Forwarded`, as [`list`] gives them. None as well where the field does not follow its
/// grammar: where one member ends and the next begins is not certain then.
pub(super) fn standard(headers: &HeaderMap) -> Option<Vec<Hop>> {
    let mut hops = Vec::new();
    for value in headers.get_all(header::FORWARDED) {
        for member in split(value.to_str().ok()?, ',')? {
            let mut hop = Hop::default();
            for pair in split(member, ';')? {
                if pair.trim().is_empty() {
                    continue;
                }
                let (name, value) = pair.split_once('=')?;
                let value = unquote(value.trim())?;
                match name.trim().to_ascii_lowercase().as_str() {
                    "for" => hop.address = address(&value),
                    "proto" => hop.is_secure = is_secure(&value),
                    "host" => hop.host = Some(value),
                    _ => {}
                }
            }
            hops.push(hop);
        }
    }
    shorten(hops)
}

/// The nearest hops; none of an empty list.
fn shorten(mut hops: Vec<Hop>) -> Option<Vec<Hop>> {
    let over = hops.len().saturating_sub(MOST_HOPS);
    hops.drain(..over);
    (!hops.is_empty()).then_some(hops)
}

/// Whether a protocol is that with TLS; none of others.
pub(super) fn is_secure(proto: &str) -> Option<bool> {
    match proto.to_ascii_lowercase().as_str() {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    }
}

/// An address, with or without a port, and one of IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    Some(bare.parse::<IpAddr>().ok().or_else(with_port)?.to_canonical())
}

/// The parts of a text between marks that are not in quotes. None where quotes do not end.
fn split(text: &str, mark: char) -> Option<Vec<&str>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            character if character == mark && !is_quoted => {
                parts.push(text.get(start..at)?);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text.get(start..)?);
    (!is_quoted).then_some(parts)
}

/// The text of a token or a quoted string (RFC 9110, 5.6.4).
fn unquote(text: &str) -> Option<String> {
    let Some(inner) = text.strip_prefix('"') else {
        return (!text.contains(['"', ' ', '\t'])).then(|| text.to_owned());
    };
    let (mut unquoted, mut is_escaped) = (String::new(), false);
    let inner = inner.strip_suffix('"')?;
    for character in inner.chars() {
        match character {
            '\\' if !is_escaped => is_escaped = true,
            '"' if !is_escaped => return None,
            character => {
                unquoted.push(character);
                is_escaped = false;
            }
        }
    }
    (!is_escaped).then_some(unquoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(value: &str) -> Option<Vec<String>> {
        let mut headers = HeaderMap::new();
        headers.insert(header::FORWARDED, value.parse().unwrap());
        let hops = standard(&headers)?;
        Some(
            hops.into_iter().map(|hop| hop.address.map_or("?".into(), |a| a.to_string())).collect(),
        )
    }

    #[test]
    fn forwarded_is_read_as_its_rfc_writes_it() {
        for (value, expected) in [
            ("for=192.0.2.43", vec!["192.0.2.43"]),
            ("For=\"[2001:db8:cafe::17]:4711\"", vec!["2001:db8:cafe::17"]),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", vec!["192.0.2.60"]),
            ("for=192.0.2.43, for=198.51.100.17", vec!["192.0.2.43", "198.51.100.17"]),
            ("for=\"192.0.2.43:80\" , for=unknown,for=_hidden", vec!["192.0.2.43", "?", "?"]),
            ("by=x;host=\"a,b;c\\\"d\", for=192.0.2.1", vec!["?", "192.0.2.1"]),
            ("proto=https", vec!["?"]),
        ] {
            let expected = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(addresses(value), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_does_not_follow_the_grammar_says_nothing() {
        for value in
            ["for=\"192.0.2.1", "for", "for=\"a\"b\"", "for=192.0.2.1, nonsense", "for=a b"]
        {
            assert_eq!(addresses(value), None, "{value}");
        }
    }

    #[test]
    fn the_protocol_and_the_host_are_read_too() {
        let mut headers = HeaderMap::new();
        let value = "for=192.0.2.1;Proto=HTTPS;host=\"x:80\"".parse().unwrap();
        headers.insert(header::FORWARDED, value);
        let hop = standard(&headers).unwrap().remove(0);
        assert_eq!((hop.is_secure, hop.host.as_deref()), (Some(true), Some("x:80")));
    }
}
