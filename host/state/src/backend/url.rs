//! The one grammar of store URLs:
//! `SCHEME://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]…][/PATH][?NAME=VALUE[&NAME=VALUE…]]`.
//!
//! Every part is percent-decoded once, here and nowhere else, and a plus sign is a plus sign. Each
//! backend gives the parts their meaning. An error says what is wrong without repeating any part of
//! the URL, because a password may stand anywhere in it.

use percent_encoding::percent_decode_str;
use tally_net::HostPort;

/// The parts of a URL, decoded. Holds credentials, and so has no `Debug`.
#[derive(Default)]
pub(super) struct StoreUrl {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// Hosts and ports, in the order in which they are written. IPv6 addresses have no brackets. One
    /// that is empty stands alone.
    pub(super) hosts: Vec<(String, Option<u16>)>,
    /// The path without its first slash, split at the others.
    pub(super) path: Vec<String>,
    pub(super) parameters: Vec<(String, String)>,
}

impl StoreUrl {
    /// Takes a URL apart.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (_, rest) = url.split_once("://").ok_or("it has no ://")?;
        if rest.contains('#') {
            return Err("it has a #; write it as %23".into());
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.split_once('/') {
            Some((authority, path)) => (authority, Some(path)),
            None => (rest, None),
        };
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let (user, password) = match login.map(|login| login.split_once(':').ok_or(login)) {
            None => (None, None),
            Some(Ok((user, password))) => (Some(user), Some(password)),
            Some(Err(user)) => (Some(user), None),
        };
        let part = |name: &'static str| {
            move |text: &str| decode(text).map_err(|why| format!("its {name} {why}"))
        };
        let filled = |text: Option<&str>, name| {
            text.filter(|text| !text.is_empty()).map(part(name)).transpose()
        };
        Ok(Self {
            user: filled(user, "user")?,
            password: filled(password, "password")?,
            hosts: hosts.split(',').map(host).collect::<Result<_, _>>()?,
            path: match path {
                None => Vec::new(),
                Some(path) => path.split('/').map(part("path")).collect::<Result<_, _>>()?,
            },
            parameters: parameters(query)?,
        })
    }
}

/// `NAME=VALUE&…`, decoded.
pub(super) fn parameters(query: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let decoded = pairs.map(|pair| {
        let (name, value) =
            pair.split_once('=').ok_or("behind its ? there is something that is not NAME=VALUE")?;
        let part = |text| decode(text).map_err(|why| format!("a parameter {why}"));
        Ok((part(name)?, part(value)?))
    });
    decoded.collect()
}

fn host(text: &str) -> Result<(String, Option<u16>), String> {
    let HostPort { host, port } = HostPort::parse(text).map_err(|why| why.to_string())?;
    let host = decode(host).map_err(|why| format!("a host {why}"))?;
    Ok((host, port))
}

/// Text without its percent-encoding.
pub(super) fn decode(text: &str) -> Result<String, &'static str> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let is_hex = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
        if !after.as_bytes().get(..2).is_some_and(is_hex) {
            return Err("has a % that begins no escape; write it as %25");
        }
        rest = after;
    }
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| "is not UTF-8 when its escapes are decoded")?;
    if decoded.contains('\0') {
        return Err("has a zero byte");
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_decoded_once() {
        let url = "x://us%40er:p%2Fa:s@s%2525@h%2Fa:1,[::2]:3,c/d%2Fb/e?a=%3D+%20&b%26=c%3d";
        let parsed = StoreUrl::parse(url).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(parsed.user.as_deref(), Some("us@er"));
        assert_eq!(parsed.password.as_deref(), Some("p/a:s@s%25"));
        let hosts = [("h/a", Some(1)), ("::2", Some(3)), ("c", None)];
        assert_eq!(parsed.hosts, hosts.map(|(host, port)| (host.to_owned(), port)));
        assert_eq!(parsed.path, ["d/b", "e"]);
        let parameters = [("a", "=+ "), ("b&", "c=")];
        assert_eq!(parsed.parameters, parameters.map(|(a, b)| (a.to_owned(), b.to_owned())));
        let bare = StoreUrl::parse("x://:p@h").unwrap_or_else(|why| panic!("{why}"));
        assert_eq!((bare.user, bare.password.as_deref()), (None, Some("p")));
        assert!(bare.path.is_empty() && bare.parameters.is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_without_repeating_it() {
        for (url, says) in [
            ("x:secret", "://"),
            ("x://h/#secret", "%23"),
            ("x://secret:100%@h", "password has a %"),
            ("x://h/secret%zz", "%25"),
            ("x://h?secret=%ff", "UTF-8"),
            ("x://h?a=secret%00", "zero byte"),
            ("x://h?secret", "NAME=VALUE"),
            ("x://[::secret]:1", "IPv6"),
            ("x://[::1", "not closed"),
            ("x://h:secret", "port"),
            ("x://h:0", "port"),
            ("x://h:1:2", "port"),
        ] {
            let Err(why) = StoreUrl::parse(url) else { panic!("{url} was taken") };
            assert!(why.contains(says) && !why.contains("secret"), "{url}: {why}");
        }
    }

    /// Whatever is written, no part of it is repeated in an error, and what is read once is read the
    /// same when it is written again.
    #[test]
    fn fuzz_store_urls() {
        let seeds: [&[u8]; 6] = [
            b"redis://user:pass@[::1]:7000/3",
            b"rediss://h?cacert=/a%20b+&cert=c&key=k",
            b"rediss-sentinel://u:p%40ss@a:1,[::2]:3,c/my%20service/7?sentinel_username=su",
            b"postgres://u%20+:p%27%5C%25@h,i:5433/d%20b?application_name=a%20'b'&sslmode=disable",
            b"postgres:///d?host=/run/postgresql,b&port=1,2&hostaddr=192.0.2.1",
            b"sqlite:/var/lib/tally%20a/tally.db?mode=rwc&vfs=unix",
        ];
        let words: [&[u8]; 14] = [
            b"://", b"@", b":", b"%", b"%25", b"%00", b"%ff", b"[::1]", b"?", b"&", b"=", b"#",
            b",", b"/",
        ];
        // Long enough to stand in no message by chance.
        const SECRET: &str = "zq9secret7x";
        let options = crate::Options::default();
        tally_testkit::fuzz("store_urls", &seeds, &words, |input| {
            let Ok(text) = std::str::from_utf8(input) else { return };
            let place = text.find("://").map_or(text.len(), |scheme| scheme + 3);
            let planted = format!("{}{SECRET}{}", &text[..place], &text[place..]);
            for url in [text, &planted] {
                let parsed = StoreUrl::parse(url);
                let errors = [
                    parsed.as_ref().err().cloned(),
                    crate::backend::redis::fuzz_url(url, &options),
                    crate::backend::postgres::fuzz_url(url, &options),
                    crate::backend::sqlite::fuzz_url(url),
                ];
                for error in errors.into_iter().flatten() {
                    assert!(!error.contains(SECRET), "{url}: {error}");
                }
                let Ok(parsed) = parsed else { continue };
                let Ok(again) = StoreUrl::parse(&written(&parsed)) else {
                    panic!("{} is not read again", written(&parsed))
                };
                assert_eq!((&parsed.user, &parsed.password), (&again.user, &again.password));
                assert_eq!((&parsed.hosts, &parsed.path), (&again.hosts, &again.path));
                assert_eq!(parsed.parameters, again.parameters);
            }
        });
    }

    /// A URL of these parts.
    fn written(url: &StoreUrl) -> String {
        let encode = |text: &str| {
            let set = percent_encoding::NON_ALPHANUMERIC;
            percent_encoding::utf8_percent_encode(text, set).to_string()
        };
        let hosts = url.hosts.iter().map(|(host, port)| {
            let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
            let host = if is_v6 { format!("[{host}]") } else { encode(host) };
            port.map_or(host.clone(), |port| format!("{host}:{port}"))
        });
        let login = match (&url.user, &url.password) {
            (None, None) => String::new(),
            (user, password) => {
                let part = |part: &Option<String>| part.as_deref().map(encode).unwrap_or_default();
                format!("{}:{}@", part(user), part(password))
            }
        };
        let path: String = url.path.iter().map(|part| format!("/{}", encode(part))).collect();
        let parameters: Vec<String> = url
            .parameters
            .iter()
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        let mark = if parameters.is_empty() { "" } else { "?" };
        let hosts = hosts.collect::<Vec<_>>().join(",");
        format!("x://{login}{hosts}{path}{mark}{}", parameters.join("&"))
    }
}
