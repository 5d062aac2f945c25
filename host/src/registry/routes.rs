//! Which guest answers a request: by its host and its path.

use std::{collections::HashMap, fmt, sync::Arc};

use super::Guest;

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

    /// The same for two that take the very same requests, so that neither is more specific.
    pub(crate) fn identity(&self) -> (Option<&str>, bool, &str) {
        let host = self.host.as_deref();
        match &self.path {
            Path::Exact(exact) => (host, true, exact),
            Path::Prefix(prefix) => (host, false, prefix.trim_end_matches('/')),
        }
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

/// So few routes are looked at one after the other, which is faster than to look them up.
const FEW: usize = 8;

/// All routes of a server.
pub(crate) struct Routes {
    /// The most specific first.
    routes: Vec<(Pattern, Arc<Guest>)>,
    /// Places of routes, by what they take; empty where there are few.
    index: Index,
    /// Places of routes, by their guests' names.
    names: HashMap<Arc<str>, usize>,
}

/// Places of routes by their hosts, and those for any host.
#[derive(Default)]
struct Index {
    hosts: HashMap<String, Paths>,
    any: Paths,
}

/// Places of routes by their paths.
#[derive(Default)]
struct Paths {
    exact: HashMap<String, usize>,
    prefixes: HashMap<String, usize>,
}

impl Index {
    fn of<'a>(patterns: impl Iterator<Item = &'a Pattern>) -> Self {
        let mut index = Self::default();
        for (place, pattern) in patterns.enumerate() {
            let paths = match &pattern.host {
                Some(host) => index.hosts.entry(host.to_ascii_lowercase()).or_default(),
                None => &mut index.any,
            };
            match &pattern.path {
                Path::Exact(exact) => paths.exact.insert(exact.clone(), place),
                Path::Prefix(prefix) => {
                    paths.prefixes.insert(prefix.trim_end_matches('/').to_owned(), place)
                }
            };
        }
        index
    }

    /// The place of the most specific route that takes a request.
    fn find(&self, host: Option<&str>, path: &str) -> Option<usize> {
        let of_host = host.filter(|_| !self.hosts.is_empty()).and_then(|host| {
            let paths = self.hosts.get(&host.to_ascii_lowercase())?;
            paths.find(path)
        });
        of_host.or_else(|| self.any.find(path))
    }
}

impl Paths {
    fn find(&self, path: &str) -> Option<usize> {
        if let Some(place) = self.exact.get(path) {
            return Some(*place);
        }
        // From the whole path on, each time without its last segment.
        let mut prefix = if path == "*" { "" } else { path };
        loop {
            if let Some(place) = self.prefixes.get(prefix) {
                return Some(*place);
            }
            (prefix, _) = prefix.rsplit_once('/')?;
        }
    }
}

impl Routes {
    pub(crate) fn new(mut routes: Vec<(Pattern, Arc<Guest>)>) -> Self {
        routes.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.rank()));
        let index = match routes.len() > FEW {
            true => Index::of(routes.iter().map(|(pattern, _)| pattern)),
            false => Index::default(),
        };
        let names = routes.iter().enumerate();
        let names = names.map(|(place, (_, guest))| (Arc::clone(guest.name()), place)).collect();
        Self { routes, index, names }
    }

    /// The guest for a request to a host, without its port, and a path.
    pub(crate) fn find(&self, host: Option<&str>, path: &str) -> Option<&Arc<Guest>> {
        let place = match self.routes.len() > FEW {
            true => self.index.find(host, path)?,
            false => self.routes.iter().position(|(pattern, _)| pattern.takes(host, path))?,
        };
        self.routes.get(place).map(|(_, guest)| guest)
    }

    /// All guests and their patterns.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Pattern, &Arc<Guest>)> {
        self.routes.iter().map(|(pattern, guest)| (pattern, guest))
    }

    /// The guest of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Guest>> {
        let place = self.names.get(name)?;
        self.routes.get(*place).map(|(_, guest)| guest)
    }
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
        let clash = |one: Pattern, other: Pattern| one.identity() == other.identity();
        let a = || pattern(None, prefix("/a"));
        assert!(clash(a(), pattern(None, prefix("/a/"))));
        assert!(!clash(a(), pattern(None, exact("/a"))));
        assert!(!clash(a(), pattern(Some("h"), prefix("/a"))));
    }

    /// Looking routes up finds what looking at one after the other does.
    #[test]
    fn many_routes_are_found_as_few_are() {
        let mut random = fastrand::Rng::with_seed(7);
        let segments = ["a", "b", "ab", "", "%41"];
        let path = |random: &mut fastrand::Rng| {
            let segments =
                (0..random.usize(1..4)).map(|_| segments[random.usize(..segments.len())]);
            segments.fold(String::new(), |path, segment| path + "/" + segment)
        };
        for _ in 0..300 {
            let mut patterns: Vec<Pattern> = Vec::new();
            for _ in 0..random.usize(1..20) {
                let host = [None, None, Some("h"), Some("i.example")][random.usize(..4)];
                let path = path(&mut random);
                let path = if random.bool() { exact(&path) } else { prefix(&path) };
                let new = pattern(host, path);
                if patterns.iter().all(|other| other.identity() != new.identity()) {
                    patterns.push(new);
                }
            }
            patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.rank()));
            let index = Index::of(patterns.iter());
            for _ in 0..50 {
                let host = [None, Some("H"), Some("i.example"), Some("other")][random.usize(..4)];
                let path = if random.u8(..10) == 0 { "*".into() } else { path(&mut random) };
                let found = patterns.iter().position(|pattern| pattern.takes(host, &path));
                assert_eq!(index.find(host, &path), found, "{host:?} {path} of {patterns:?}");
            }
        }
    }
}
