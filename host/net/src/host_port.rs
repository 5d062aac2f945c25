//! `HOST[:PORT]`, as in the authority of a URL (RFC 3986, section 3.2).

use std::{fmt, net::Ipv6Addr};

/// A host and maybe a port. The host of an IPv6 address has no brackets here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPort<'a> {
    /// The host as it is written, which may be empty.
    pub host: &'a str,
    /// The port, from 1 to 65535.
    pub port: Option<u16>,
}

/// Why a text is not `HOST[:PORT]`. Does not repeat the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPortError {
    /// A bracket is opened and not closed.
    OpenBracket,
    /// Brackets are for IPv6 addresses.
    NotIpv6,
    /// Something other than a port follows the brackets.
    AfterBracket,
    /// The port is not a number from 1 to 65535.
    Port,
}

impl fmt::Display for HostPortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenBracket => "a [ of a host is not closed by a ]",
            Self::NotIpv6 => "between [ and ] there is no IPv6 address",
            Self::AfterBracket => "behind a ] there is something that is no port",
            Self::Port => "a port is not a number from 1 to 65535",
        })
    }
}

impl std::error::Error for HostPortError {}

impl<'a> HostPort<'a> {
    /// Takes `HOST[:PORT]` apart.
    ///
    /// # Errors
    /// [`HostPortError`].
    pub fn parse(text: &'a str) -> Result<Self, HostPortError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(HostPortError::OpenBracket)?;
                if host.parse::<Ipv6Addr>().is_err() {
                    return Err(HostPortError::NotIpv6);
                }
                (host, rest)
            }
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            // The standard parser also takes a plus sign.
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let port = digits.parse().ok().filter(|port| *port > 0);
                Some(port.ok_or(HostPortError::Port)?)
            }
            Some(_) => return Err(HostPortError::Port),
            None if port.is_empty() => None,
            None => return Err(HostPortError::AfterBracket),
        };
        Ok(Self { host, port })
    }
}

/// As it is written in a URL: an IPv6 address is in brackets.
impl fmt::Display for HostPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(self.host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_written_again() {
        for (text, host, port) in [
            ("h", "h", None),
            ("h:1", "h", Some(1)),
            ("[::1]", "::1", None),
            ("[::1]:65535", "::1", Some(65_535)),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("", "", None),
            (":5", "", Some(5)),
        ] {
            let parsed = HostPort::parse(text).unwrap();
            assert_eq!(parsed, HostPort { host, port }, "{text}");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for (text, why) in [
            ("h:", HostPortError::Port),
            ("h:0", HostPortError::Port),
            ("h:+1", HostPortError::Port),
            ("h:65536", HostPortError::Port),
            ("h:1:2", HostPortError::Port),
            ("::1", HostPortError::Port),
            ("[::1", HostPortError::OpenBracket),
            ("[h]:1", HostPortError::NotIpv6),
            ("[::1]1", HostPortError::AfterBracket),
            ("[::1]:", HostPortError::Port),
        ] {
            assert_eq!(HostPort::parse(text), Err(why), "{text}");
        }
    }
}
