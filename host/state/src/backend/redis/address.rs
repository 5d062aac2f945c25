//! What a store URL says of Redis: which servers or sentinels, who logs in, and how TLS is used.
//!
//! `redis://[USER:PASSWORD@]HOST[:6379][/DATABASE]` names a server,
//! `redis-sentinel://[USER:PASSWORD@]HOST[:26379][,HOST…]/SERVICE[/DATABASE]` those who know where
//! the service's master is; `rediss` in the place of `redis` is TLS to all of them. The files of
//! TLS are called as `redis-cli` calls them (<https://redis.io/docs/latest/develop/tools/cli/>).

use std::path::PathBuf;

use redis::{ProtocolVersion, RedisConnectionInfo};
use tally_net::HostPort;

use crate::{
    backend::{tls::Files, url::StoreUrl},
    error::OpenError,
};

/// Where a server or a sentinel listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        HostPort { host: &self.host, port: Some(self.port) }.fmt(f)
    }
}

/// The parts of a URL. Holds credentials, and so has no `Debug`.
pub(super) struct Parsed {
    /// One server, or the sentinels in the order in which they are written.
    pub(super) addresses: Vec<Address>,
    /// What the sentinels call the master.
    pub(super) service: Option<String>,
    pub(super) login: RedisConnectionInfo,
    /// The sentinels' own users.
    pub(super) sentinel_login: RedisConnectionInfo,
    /// `None` without TLS.
    pub(super) tls: Option<Files>,
}

/// Takes a URL apart. What is wrong with it is told without repeating it, as it may hold a
/// password anywhere.
pub(super) fn parse(url: &str) -> Result<Parsed, OpenError> {
    let scheme = url.split_once("://").map_or(url, |(scheme, _)| scheme);
    let sentinel = scheme.ends_with("-sentinel");
    let wrong = |why: &str| {
        let form = match sentinel {
            false => "redis://[USER:PASSWORD@]HOST[:6379][/DATABASE]",
            true => "redis-sentinel://[USER:PASSWORD@]HOST[:26379][,HOST…]/SERVICE[/DATABASE]",
        };
        OpenError::Url(format!(
            "the Redis URL is not valid: {why}; write {form}, with rediss for TLS"
        ))
    };
    let mut parsed = StoreUrl::parse(url).map_err(|why| wrong(&why))?;
    if !sentinel && parsed.hosts.len() > 1 {
        return Err(wrong("it has several hosts; sentinels alone can be several"));
    }
    let default_port = if sentinel { 26_379 } else { 6379 };
    let addresses = std::mem::take(&mut parsed.hosts).into_iter().map(|(host, port)| {
        let missing = host.is_empty();
        (!missing).then(|| Address { host, port: port.unwrap_or(default_port) })
    });
    let addresses: Option<Vec<Address>> = addresses.collect();
    let addresses = addresses.ok_or_else(|| wrong("a host is missing"))?;
    let mut path = parsed.path.iter().map(String::as_str);
    let service = match sentinel {
        false => None,
        true => {
            Some(path.next().filter(|service| !service.is_empty()).map(str::to_owned).ok_or_else(
                || wrong("it does not say which service, such as mymaster, the sentinels watch"),
            )?)
        }
    };
    let database = match (path.next().unwrap_or_default(), path.next().unwrap_or_default()) {
        ("", "") => Some(0),
        (number, "") => number.parse::<u32>().ok(),
        _ => None,
    };
    let database =
        database.ok_or_else(|| wrong("its database is not a number, such as 0 or 15"))?;
    let parameters = Parameters::from_pairs(parsed.parameters).map_err(wrong)?;
    if !sentinel && parameters.sentinel_login != (None, None) {
        return Err(wrong("sentinel_username and sentinel_password go with redis-sentinel://"));
    }
    let secure = scheme.starts_with("rediss");
    if !secure && parameters.files != Files::default() {
        return Err(wrong("cacert, cert and key are for TLS"));
    }
    let (user, password) = parameters.sentinel_login;
    Ok(Parsed {
        addresses,
        service,
        login: login(parsed.user, parsed.password)
            .set_db(database.into())
            .set_protocol(parameters.protocol),
        sentinel_login: login(user, password),
        tls: secure.then_some(parameters.files),
    })
}

fn login(user: Option<String>, password: Option<String>) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default();
    if let Some(user) = user {
        login = login.set_username(user);
    }
    if let Some(password) = password {
        login = login.set_password(password);
    }
    login
}

/// What stands behind the question mark.
struct Parameters {
    files: Files,
    sentinel_login: (Option<String>, Option<String>),
    protocol: ProtocolVersion,
}

impl Parameters {
    fn from_pairs(pairs: Vec<(String, String)>) -> Result<Self, &'static str> {
        let (mut certificate, mut key) = (None, None);
        let mut taken = Self {
            files: Files::default(),
            sentinel_login: (None, None),
            protocol: ProtocolVersion::RESP2,
        };
        for (name, value) in pairs {
            match name.as_str() {
                "cacert" => taken.files.roots = Some(PathBuf::from(value)),
                "cert" => certificate = Some(PathBuf::from(value)),
                "key" => key = Some(PathBuf::from(value)),
                "sentinel_username" => taken.sentinel_login.0 = Some(value),
                "sentinel_password" => taken.sentinel_login.1 = Some(value),
                "protocol" => {
                    taken.protocol = match value.as_str() {
                        "resp2" | "2" => ProtocolVersion::RESP2,
                        "resp3" | "3" => ProtocolVersion::RESP3,
                        _ => return Err("protocol is resp2 or resp3"),
                    }
                }
                _ => {
                    return Err(
                        "of parameters there are cacert, cert, key, sentinel_username, sentinel_password and protocol",
                    );
                }
            }
        }
        taken.files.identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("cert and key go together"),
        };
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_explained_without_its_password() {
        for (url, says) in [
            ("redis://", "host is missing"),
            ("redis://u:secret@host:port", "port"),
            ("redis://u:secret@/0", "host is missing"),
            ("redis://u:secret@h/x", "database"),
            ("redis://u:secret@h/#secret", "%23"),
            ("redis://u:secret@h/0?colour=secret", "of parameters there are"),
            ("redis://u:secret@h/0?cacert=/secret", "for TLS"),
            ("rediss://u:secret@h/0?cert=/secret", "go together"),
            ("redis://h?sentinel_password=secret", "redis-sentinel://"),
            ("redis-sentinel://u:secret@h:1,h:2", "which service"),
            ("redis-sentinel://u:secret@h:1,/s", "host is missing"),
            ("redis-sentinel://u:secret@h:1,h:x/s", "port"),
            ("redis-sentinel://u:secret@h:1/s/x", "database"),
            ("redis-sentinel://u:secret@h:1/s/0/1", "database"),
            ("redis-sentinel://u:secret@h:1/%ff", "UTF-8"),
            ("redis://u:secret@h/-1", "database"),
            ("redis://u:secret@h,i", "several hosts"),
            ("redis://u:secret%@h", "%25"),
            ("redis://u:secret@h?protocol=secret", "resp3"),
            ("redis-sentinel://h/s?sentinel_pass=secret", "of parameters there are"),
        ] {
            let Err(error) = parse(url) else { panic!("{url} was taken") };
            let error = error.to_string();
            assert!(error.contains("://[USER:PASSWORD@]"), "{error}");
            assert!(error.to_lowercase().contains(&says.to_lowercase()), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_parts_of_a_server_s_url_are_found() {
        let parsed = parse("redis://user:pass@[::1]:7000/3").unwrap_or_else(|_| panic!());
        assert_eq!(parsed.addresses, [Address { host: "::1".into(), port: 7000 }]);
        assert_eq!((parsed.login.db(), parsed.login.username()), (3, Some("user")));
        assert!(parsed.tls.is_none() && parsed.service.is_none());
        let parsed = parse("rediss://h?cacert=/a%20b+&cert=c&key=k").unwrap_or_else(|_| panic!());
        assert_eq!(parsed.addresses, [Address { host: "h".into(), port: 6379 }]);
        let identity = Some(("c".into(), "k".into()));
        assert_eq!(parsed.tls, Some(Files { roots: Some("/a b+".into()), identity }));
    }

    #[test]
    fn the_parts_of_a_sentinels_url_are_found() {
        let url = "rediss-sentinel://u:p%40ss@a:1,[::2]:3,c/my%20service/7?sentinel_username=su&sentinel_password=s%26p";
        let parsed = parse(url).unwrap_or_else(|_| panic!());
        let addresses = parsed.addresses.iter().map(Address::to_string).collect::<Vec<_>>();
        assert_eq!(addresses, ["a:1", "[::2]:3", "c:26379"]);
        assert_eq!(parsed.service.as_deref(), Some("my service"));
        assert_eq!((parsed.login.db(), parsed.login.password()), (7, Some("p@ss")));
        let sentinel = &parsed.sentinel_login;
        assert_eq!((sentinel.username(), sentinel.password()), (Some("su"), Some("s&p")));
        assert!(parsed.tls.is_some());
    }
}
