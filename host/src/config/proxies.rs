//! The proxies that are believed.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{ConfigError, TrustedHeader};
use crate::edge::Proxies;

/// Stands for whoever connects to a Unix socket.
const UNIX: &str = "unix";

/// Checks what is configured of proxies.
///
/// # Errors
/// [`ConfigError`] for what is no address or range, and for the PROXY protocol of nobody.
pub(super) fn resolve(
    trusted: &[String],
    header: TrustedHeader,
    protocol: bool,
) -> Result<Proxies, ConfigError> {
    let (sockets, addresses): (Vec<&String>, Vec<_>) =
        trusted.iter().partition(|text| text.trim() == UNIX);
    let (unix, trusted) = (!sockets.is_empty(), addresses.into_iter().map(|text| net(text)));
    let trusted = trusted.collect::<Result<Vec<IpNet>, _>>()?;
    if protocol && trusted.is_empty() && !unix {
        return Err(ConfigError(
            "proxy-protocol: only with a trusted-proxy, as others could claim any address".into(),
        ));
    }
    Ok(Proxies { trusted, unix, header: header.into(), protocol })
}

fn net(text: &str) -> Result<IpNet, ConfigError> {
    let wrong = || {
        ConfigError(format!(
            "trusted-proxy: '{text}' is neither an address such as 10.0.0.1, nor a range such as 10.0.0.0/8 or fd00::/8, nor '{UNIX}'"
        ))
    };
    let address = text.trim();
    match address.parse::<IpAddr>() {
        Ok(address) => Ok(IpNet::from(address.to_canonical())),
        Err(_) => address.parse().map_err(|_| wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_addresses_or_ranges() {
        let resolve = |texts: &[&str], protocol| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            resolve(&texts, TrustedHeader::default(), protocol)
        };
        let found = resolve(&["10.0.0.1", "10.1.0.0/16", "fd00::/8", " ::1"], true).unwrap();
        let expected =
            ["10.0.0.1/32", "10.1.0.0/16", "fd00::/8", "::1/128"].map(|net| net.parse().unwrap());
        assert_eq!((found.trusted, found.unix), (expected.to_vec(), false));
        let found = resolve(&["10.0.0.1", "unix"], true).unwrap();
        assert_eq!((found.trusted.len(), found.unix), (1, true));
        for wrong in ["", "10.0.0", "10.0.0.0/33", "proxy.example", "*", "unix:"] {
            let error = resolve(&[wrong], false).unwrap_err().to_string();
            assert!(error.contains("10.0.0.0/8"), "{error}");
        }
        assert!(resolve(&[], true).unwrap_err().to_string().contains("trusted-proxy"));
    }
}
