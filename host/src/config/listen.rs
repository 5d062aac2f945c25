//! Addresses to listen at, as people write them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ConfigError, units::as_text};

/// The forms, for whoever wrote another one.
const FORMS: &str = "write 127.0.0.1:3000, [::1]:3000, :3000 for all of this machine's addresses, localhost:3000 for all addresses of a name, or unix:/path/to/socket";

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// At a port of every address of the machine, of IPv6 and of IPv4.
    Every(u16),
    /// At one address; `[::]` and `0.0.0.0` are every one of their family.
    Ip(SocketAddr),
    /// At each address that a name has when the host starts.
    Name(String, u16),
    /// At a socket in the file system.
    Unix(PathBuf),
}

impl ListenAddress {
    /// A port of this machine that nobody else reaches.
    #[must_use]
    pub const fn local(port: u16) -> Self {
        Self::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| format!("'{text}' is no address to listen at; {FORMS}"))
    }
}

fn parse(text: &str) -> Option<ListenAddress> {
    if let Some(path) = text.strip_prefix("unix:") {
        return (!path.is_empty()).then(|| ListenAddress::Unix(path.into()));
    }
    let (host, port) = text.rsplit_once(':')?;
    // No sign, which a number could have.
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
    if host.is_empty() {
        return Some(ListenAddress::Every(port));
    }
    if let Some(host) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let host: Ipv6Addr = host.parse().ok()?;
        return Some(ListenAddress::Ip((host, port).into()));
    }
    if let Ok(host) = host.parse::<Ipv4Addr>() {
        return Some(ListenAddress::Ip((host, port).into()));
    }
    // What has digits and dots alone is an address with an error in it (RFC 3986, 3.2.2).
    let is_name = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && host.bytes().any(|byte| byte.is_ascii_alphabetic());
    is_name.then(|| ListenAddress::Name(host.to_owned(), port))
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(port) => write!(f, ":{port}"),
            Self::Ip(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

as_text!(ListenAddress);

/// Checks that no address is given twice, which would look like another program that has it.
///
/// # Errors
/// [`ConfigError`] that names the address.
pub(super) fn check_unique<'a>(
    addresses: impl Iterator<Item = (&'static str, &'a ListenAddress)>,
) -> Result<(), ConfigError> {
    let mut seen: Vec<&ListenAddress> = Vec::new();
    for (key, address) in addresses {
        // Port 0 is another one each time.
        let is_any = match address {
            ListenAddress::Every(port) | ListenAddress::Name(_, port) => *port == 0,
            ListenAddress::Ip(address) => address.port() == 0,
            ListenAddress::Unix(_) => false,
        };
        if !is_any && seen.contains(&address) {
            return Err(ConfigError(format!("{key}: {address} is given twice")));
        }
        seen.push(address);
    }
    Ok(())
}

/// Several values, in a file as a list or as one by itself. For `#[serde(with)]`.
pub(super) mod one_or_many {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany<T> {
        One(T),
        Many(Vec<T>),
    }

    pub(in super::super) fn serialize<T: Serialize, S: Serializer>(
        values: &Option<Vec<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match values.as_deref() {
            Some([one]) => one.serialize(serializer),
            values => values.serialize(serializer),
        }
    }

    pub(in super::super) fn deserialize<'de, T, D>(
        deserializer: D,
    ) -> Result<Option<Vec<T>>, D::Error>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
        D: Deserializer<'de>,
    {
        let texts = match OneOrMany::<String>::deserialize(deserializer)? {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        };
        let values = texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom));
        values.collect::<Result<_, _>>().map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written_and_others_are_told_the_forms() {
        for text in [
            "127.0.0.1:3000",
            "0.0.0.0:0",
            "[::]:3000",
            "[::1]:3000",
            ":3000",
            "localhost:3000",
            "my-host.example:80",
            "unix:/run/tally.sock",
            "unix:tally.sock",
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "3000",
            ":",
            "localhost",
            "localhost:",
            "localhost:http",
            "localhost:+80",
            ":70000",
            "::1:3000",
            "[::1]",
            "[1.2.3.4]:3000",
            "256.0.0.1:3000",
            "http://127.0.0.1:3000",
            "unix:",
            "a b:3000",
            "*:3000",
        ] {
            let error = text.parse::<ListenAddress>().unwrap_err();
            assert!(error.contains(":3000 for all") && error.contains("unix:/path"), "{error}");
        }
    }

    #[test]
    fn an_address_that_is_given_twice_is_named() {
        let check = |texts: &[&str]| {
            let addresses: Vec<ListenAddress> = texts.iter().map(|t| t.parse().unwrap()).collect();
            check_unique(addresses.iter().map(|address| ("listen", address)))
        };
        assert!(check(&[":0", ":0", ":3000", "localhost:3000"]).is_ok());
        let error = check(&[":3000", "[::1]:80", ":3000"]).unwrap_err().to_string();
        assert!(error.contains("listen: :3000 is given twice"), "{error}");
    }
}
