//! What a store URL says of Redis: which servers or sentinels, who logs in, and how TLS is used.
//!
//! `redis://[USER:PASSWORD@]HOST[:6379][/DATABASE]` names a server,
//! `redis-sentinel://[USER:PASSWORD@]HOST[:26379][,HOST…]/SERVICE[/DATABASE]` those who know where
//! the service's master is; `rediss` in the place of `redis` is TLS to all of them. The files of
//! TLS are called as `redis-cli` calls them (<https://redis.io/docs/latest/develop/tools/cli/>).

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use redis::{IntoConnectionInfo as _, RedisConnectionInfo};
use url::Url;

use crate::{backend::tls::Files, error::OpenError};

/// Where a server or a sentinel listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
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
    let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
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
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    let hosts: Vec<&str> = if sentinel { hosts.split(',').collect() } else { vec![hosts] };
    let default_port = if sentinel { 26_379 } else { 6379 };
    let addresses = hosts.iter().map(|host| address(host, default_port));
    let addresses = addresses.collect::<Result<Vec<_>, _>>().map_err(|why| wrong(&why))?;
    let first = hosts.first().copied().unwrap_or_default();
    let mut parsed = Url::parse(&format!("redis://{user}{first}{rest}"))
        .map_err(|error| wrong(&error.to_string()))?;
    if parsed.fragment().is_some() {
        return Err(wrong("it has a #; write it as %23 in a user, password or name"));
    }
    let service = if sentinel { Some(take_service(&mut parsed).map_err(wrong)?) } else { None };
    let parameters = Parameters::take(&mut parsed).map_err(wrong)?;
    if !sentinel && parameters.sentinel_login != (None, None) {
        return Err(wrong("sentinel_username and sentinel_password go with redis-sentinel://"));
    }
    let secure = scheme.starts_with("rediss");
    if !secure && parameters.files != Files::default() {
        return Err(wrong("cacert, cert and key are for TLS"));
    }
    let login = parsed.into_connection_info().map_err(|error| {
        // The reason alone: what follows it may repeat parts of the URL.
        wrong(error.to_string().split(" - ").next().unwrap_or_default())
    })?;
    let mut sentinel_login = RedisConnectionInfo::default();
    if let (Some(user), _) = &parameters.sentinel_login {
        sentinel_login = sentinel_login.set_username(user);
    }
    if let (_, Some(password)) = &parameters.sentinel_login {
        sentinel_login = sentinel_login.set_password(password);
    }
    Ok(Parsed {
        addresses,
        service,
        login: login.redis_settings().clone(),
        sentinel_login,
        tls: secure.then_some(parameters.files),
    })
}

fn address(text: &str, default_port: u16) -> Result<Address, String> {
    let parsed = Url::parse(&format!("redis://{text}")).map_err(|error| error.to_string())?;
    let host = parsed.host_str().filter(|host| !host.is_empty()).ok_or("a host is missing")?;
    let host = host.trim_matches(['[', ']']).to_owned();
    Ok(Address { host, port: parsed.port().unwrap_or(default_port) })
}

/// Takes the service's name off the path, which leaves the database.
fn take_service(url: &mut Url) -> Result<String, &'static str> {
    let path = url.path().trim_matches('/').to_owned();
    let (service, database) = path.split_once('/').unwrap_or((&path, ""));
    let service = percent_decode_str(service).decode_utf8();
    let service = service.map_err(|_| "the service's name is not UTF-8")?.into_owned();
    if service.is_empty() {
        return Err("it does not say which service, such as mymaster, the sentinels watch");
    }
    url.set_path(database);
    Ok(service)
}

/// What stands behind the question mark, but for what the client reads itself.
struct Parameters {
    files: Files,
    sentinel_login: (Option<String>, Option<String>),
}

impl Parameters {
    fn take(url: &mut Url) -> Result<Self, &'static str> {
        let (mut certificate, mut key, mut protocol) = (None, None, None);
        let mut taken = Self { files: Files::default(), sentinel_login: (None, None) };
        for (name, value) in url.query_pairs() {
            let path = || Some(PathBuf::from(&*value));
            match &*name {
                "cacert" => taken.files.roots = path(),
                "cert" => certificate = path(),
                "key" => key = path(),
                "sentinel_username" => taken.sentinel_login.0 = Some(value.into_owned()),
                "sentinel_password" => taken.sentinel_login.1 = Some(value.into_owned()),
                "protocol" => protocol = Some(value.into_owned()),
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
        url.set_query(None);
        if let Some(protocol) = protocol {
            url.query_pairs_mut().append_pair("protocol", &protocol);
        }
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
        let parsed = parse("rediss://h?cacert=/a%20b&cert=c&key=k").unwrap_or_else(|_| panic!());
        assert_eq!(parsed.addresses, [Address { host: "h".into(), port: 6379 }]);
        let identity = Some(("c".into(), "k".into()));
        assert_eq!(parsed.tls, Some(Files { roots: Some("/a b".into()), identity }));
    }

    #[test]
    fn the_parts_of_a_sentinels_url_are_found() {
        let url = "rediss-sentinel://u:p%40ss@a:1,[::2]:3,c/my%20service/7?sentinel_username=su&sentinel_password=s%26p";
        let parsed = parse(url).unwrap_or_else(|_| panic!());
        let addresses = parsed.addresses.iter().map(Address::to_string).collect::<Vec<_>>();
        assert_eq!(addresses, ["a:1", "::2:3", "c:26379"]);
        assert_eq!(parsed.service.as_deref(), Some("my service"));
        assert_eq!((parsed.login.db(), parsed.login.password()), (7, Some("p@ss")));
        let sentinel = &parsed.sentinel_login;
        assert_eq!((sentinel.username(), sentinel.password()), (Some("su"), Some("s&p")));
        assert!(parsed.tls.is_some());
    }
}
