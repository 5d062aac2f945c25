//! The grammar of a request's host: `uri-host [ ":" port ]` (RFC 9110, 7.2; RFC 3986, 3.2.2).
//!
//! `http::uri::Authority` takes more than that, user information for example, and a `Host` field is
//! any text to it. Routes are found by the host, so a value that another server would read otherwise
//! must not get that far.

use std::net::Ipv6Addr;

/// The host of a `Host` field or an `:authority`, without its port. None if the value does not follow
/// the grammar, or if the host is empty, which `http` and `https` do not allow (RFC 9110, 4.2.1).
pub(super) fn host(value: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(value).ok()?;
    let (host, port) = match value.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':')?),
            };
            (value.get(..address.len() + 2)?, port)
        }
        None => {
            let (host, port) = match value.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (value, None),
            };
            (is_name(host.as_bytes()).then_some(host)?, port)
        }
    };
    port.is_none_or(is_port).then_some(host)
}

/// Whether a text is a `reg-name` that is not empty. An IPv4 address is one as well.
fn is_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((first, behind)) = rest.split_first() {
        rest = match first {
            b'%' => match behind {
                [high, low, behind @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    behind
                }
                _ => return false,
            },
            byte if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => behind,
            _ => return false,
        };
    }
    !name.is_empty()
}

/// Whether a text is a port: digits of a number that TCP has, or nothing, which is the scheme's
/// (RFC 3986, 3.2.3).
fn is_port(port: &str) -> bool {
    let are_digits = port.bytes().all(|byte| byte.is_ascii_digit());
    are_digits && (port.is_empty() || port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::host;

    #[test]
    fn a_host_is_told_from_its_port() {
        for (value, expected) in [
            ("a", "a"),
            ("a:80", "a"),
            ("a:", "a"),
            ("a.", "a."),
            ("a_b-c.d", "a_b-c.d"),
            ("a%2Db", "a%2Db"),
            ("127.0.0.1:65535", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
        ] {
            assert_eq!(host(value.as_bytes()), Some(expected), "{value}");
        }
    }

    #[test]
    fn what_does_not_follow_the_grammar_is_no_host() {
        for value in [
            "",
            ":",
            ":80",
            "u@a",
            "ph:80@evil",
            "a:80:80",
            "a:65536",
            "a:-1",
            "a:+1",
            "a:http",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "http://a",
            "[::1",
            "::1",
            "[::1]a",
            "[::1]:x",
            "[]",
            "[a]",
            "[1.2.3.4]",
            "[fe80::1%25eth0]",
            "a%",
            "a%4",
            "a%zz",
            "<a>",
            "a|b",
            "b\u{fc}cher",
            "a\0",
        ] {
            assert_eq!(host(value.as_bytes()), None, "{value:?}");
        }
        assert_eq!(host(b"a\xff"), None);
    }
}
