//! Which guest answers a request: by its host and its path.

use std::{fmt, sync::Arc};

use crate::runtime::Guest;

/// What requests a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// The host, in lower case and without a port; any, if none is given.
    pub(crate) host: Option<String>,
    pub(crate) path: Path,
}

/// What paths a route takes. Paths are compared as clients send them, percent-encoding included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// This one.
    Exact(String),
    /// This one and all below it: `/a` takes `/a` and `/a/b`, not `/ab`.
    Prefix(String),
}

impl Pattern {
    /// All requests.
    pub(crate) fn everything() -> Self {
        Self { host: None, path: Path::Prefix("/".into()) }
    }

    fn takes(&self, host: Option<&str>, path: &str) -> bool {
        let hosts = match (&self.host, host) {
            (None, _) => true,
            (Some(wanted), Some(host)) => wanted.eq_ignore_ascii_case(host),
            (Some(_), None) => false,
        };
        hosts
            && match &self.path {
                Path::Exact(exact) => path == exact,
                Path::Prefix(prefix) => {
                    let prefix = prefix.trim_end_matches('/');
                    // `*`, of OPTIONS, asks about all there is.
                    path.strip_prefix(prefix)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                        || (prefix.is_empty() && path == "*")
                }
            }
    }

    /// The more specific the greater: a host before none, an exact path before a prefix, a longer
    /// prefix before a shorter one.
    fn rank(&self) -> (bool, bool, usize) {
        match &self.path {
            Path::Exact(exact) => (self.host.is_some(), true, exact.len()),
            Path::Prefix(prefix) => {
                (self.host.is_some(), false, prefix.trim_end_matches('/').len())
            }
        }
    }

    /// Whether two take the very same requests, so that neither is more specific.
    pub(crate) fn clashes(&self, other: &Self) -> bool {
        let path = match (&self.path, &other.path) {
            (Path::Exact(a), Path::Exact(b)) => a == b,
            (Path::Prefix(a), Path::Prefix(b)) => {
                a.trim_end_matches('/') == b.trim_end_matches('/')
            }
            _ => false,
        };
        path && self.host == other.host
    }
}

/// As people write it: `example.com/api/*`.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.host.as_deref().unwrap_or_default())?;
        match &self.path {
            Path::Exact(path) => f.write_str(path),
            Path::Prefix(path) => write!(f, "{}/*", path.trim_end_matches('/')),
        }
    }
}

/// All routes of a server, the most specific first.
pub(crate) struct Routes(Vec<(Pattern, Arc<Guest>)>);

impl Routes {
    pub(crate) fn new(mut routes: Vec<(Pattern, Arc<Guest>)>) -> Self {
        routes.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.rank()));
        Self(routes)
    }

    /// The guest for a request to a host, without its port, and a path.
    pub(super) fn find(&self, host: Option<&str>, path: &str) -> Option<&Arc<Guest>> {
        self.0.iter().find(|(pattern, _)| pattern.takes(host, path)).map(|(_, guest)| guest)
    }

    /// All guests and their patterns.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Pattern, &Arc<Guest>)> {
        self.0.iter().map(|(pattern, guest)| (pattern, guest))
    }

    /// The guest of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Guest>> {
        self.0.iter().map(|(_, guest)| guest).find(|guest| **guest.name() == *name)
    }
}

/// The host of a `Host` header without its port (RFC 9110, 7.2).
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // The last colon of an address of IPv6 is inside its brackets.
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
    // The root's dot says no more than its absence.
    .trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(host: Option<&str>, path: Path) -> Pattern {
        Pattern { host: host.map(str::to_owned), path }
    }

    fn exact(path: &str) -> Path {
        Path::Exact(path.into())
    }

    fn prefix(path: &str) -> Path {
        Path::Prefix(path.into())
    }

    #[test]
    fn a_prefix_ends_where_a_segment_does() {
        for written in ["/a", "/a/"] {
            let route = pattern(None, prefix(written));
            for (path, takes) in
                [("/a", true), ("/a/", true), ("/a/b", true), ("/ab", false), ("/", false)]
            {
                assert_eq!(route.takes(None, path), takes, "{written} {path}");
            }
        }
        assert!(Pattern::everything().takes(Some("h"), "*"));
        assert!(!pattern(None, prefix("/a")).takes(None, "*"));
        assert!(!pattern(None, exact("/a")).takes(None, "/a/"));
    }

    #[test]
    fn hosts_are_compared_without_case() {
        let route = pattern(Some("example.com"), prefix("/"));
        assert!(route.takes(Some("Example.COM"), "/"));
        assert!(!route.takes(Some("a.example.com"), "/"));
        assert!(!route.takes(None, "/"));
        assert_eq!(without_port("a:80"), "a");
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
        assert_eq!(without_port("a"), "a");
        assert_eq!(without_port("a.:80"), "a");
    }

    #[test]
    fn the_most_specific_route_ranks_first() {
        let mut patterns = [
            pattern(None, prefix("/")),
            pattern(None, prefix("/a/b")),
            pattern(Some("h"), prefix("/")),
            pattern(None, exact("/a")),
            pattern(None, prefix("/a")),
            pattern(Some("h"), exact("/")),
        ];
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.rank()));
        let order: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        assert_eq!(order, ["h/", "h/*", "/a", "/a/b/*", "/a/*", "/*"]);
    }

    #[test]
    fn only_the_very_same_patterns_clash() {
        let a = pattern(None, prefix("/a"));
        assert!(a.clashes(&pattern(None, prefix("/a/"))));
        assert!(!a.clashes(&pattern(None, exact("/a"))));
        assert!(!a.clashes(&pattern(Some("h"), prefix("/a"))));
    }
}
