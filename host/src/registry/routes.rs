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
    /// With segments that have a name instead of a text.
    Named(Named),
    /// None: the guest is for other guests, which call it by its name.
    Nothing,
}

/// A path with named segments, as `/users/:id`: each takes any one segment that is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// As it was written.
    text: String,
    segments: Vec<Segment>,
    /// Whether it takes all below it as well.
    is_prefix: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Text(String),
    Name(String),
}

/// What a segment begins with that has a name.
const NAME: char = ':';

impl Path {
    /// This path alone.
    pub(crate) fn exact(text: &str) -> Self {
        Named::read(text, false).map_or_else(|| Self::Exact(text.into()), Self::Named)
    }

    /// This path and all below it.
    pub(crate) fn prefix(text: &str) -> Self {
        Named::read(text, true).map_or_else(|| Self::Prefix(text.into()), Self::Named)
    }

    /// Names of its segments.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let segments = match self {
            Self::Named(named) => named.segments.as_slice(),
            _ => &[],
        };
        segments.iter().filter_map(|segment| match segment {
            Segment::Name(name) => Some(name.as_str()),
            Segment::Text(_) => None,
        })
    }

    /// As it was written, without what says that it takes all below.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Exact(text) => text,
            Self::Prefix(text) => text.trim_end_matches('/'),
            Self::Named(named) => match named.is_prefix {
                true => named.text.trim_end_matches('/'),
                false => &named.text,
            },
            Self::Nothing => "",
        }
    }

    /// Whether it takes all below it as well.
    pub(crate) fn is_prefix(&self) -> bool {
        match self {
            Self::Exact(_) | Self::Nothing => false,
            Self::Prefix(_) => true,
            Self::Named(named) => named.is_prefix,
        }
    }

    /// What a path that it takes has in the place of its names, and behind all of it.
    pub(crate) fn parts<'a>(&'a self, path: &'a str) -> (Vec<(&'a str, &'a str)>, &'a str) {
        match self {
            Self::Exact(_) | Self::Nothing => (Vec::new(), ""),
            Self::Prefix(prefix) => {
                (Vec::new(), path.strip_prefix(prefix.trim_end_matches('/')).unwrap_or_default())
            }
            Self::Named(named) => named.parts(path).unwrap_or_default(),
        }
    }
}

impl Named {
    /// `None` where no segment has a name.
    fn read(text: &str, is_prefix: bool) -> Option<Self> {
        let path = if is_prefix { text.trim_end_matches('/') } else { text };
        let segment = |segment: &str| match segment.strip_prefix(NAME) {
            Some(name) => Segment::Name(name.to_owned()),
            None => Segment::Text(segment.to_owned()),
        };
        let segments: Vec<Segment> = path.strip_prefix('/')?.split('/').map(segment).collect();
        let is_named = segments.iter().any(|segment| matches!(segment, Segment::Name(_)));
        is_named.then(|| Self { text: text.to_owned(), segments, is_prefix })
    }

    /// What a path has in the place of its names, and what is left of it, if it takes that path.
    fn parts<'a>(&'a self, path: &'a str) -> Option<(Vec<(&'a str, &'a str)>, &'a str)> {
        let mut names = Vec::new();
        let mut rest = path;
        for segment in &self.segments {
            let behind = rest.strip_prefix('/')?;
            let (here, left) = behind.split_at(behind.find('/').unwrap_or(behind.len()));
            match segment {
                Segment::Text(text) if text == here => {}
                Segment::Name(name) if !here.is_empty() => names.push((name.as_str(), here)),
                _ => return None,
            }
            rest = left;
        }
        (self.is_prefix || rest.is_empty()).then_some((names, rest))
    }

    fn takes(&self, path: &str) -> bool {
        self.parts(path).is_some()
    }
}

/// How specific a part of a path is, and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Prefix,
    Name,
    Text,
    Exact,
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
                Path::Named(named) => named.takes(path),
                Path::Nothing => false,
            }
    }

    /// The more specific the greater: a host before none, and then segment by segment, a text before
    /// a name, and a path that ends before one that takes all below it.
    fn rank(&self) -> (bool, Vec<Rank>) {
        let text = self.path.text();
        let segments = text.strip_prefix('/').map(|path| path.split('/')).into_iter().flatten();
        let is_named = matches!(self.path, Path::Named(_));
        let rank = |segment: &str| match is_named && segment.starts_with(NAME) {
            true => Rank::Name,
            false => Rank::Text,
        };
        let end = if self.path.is_prefix() { Rank::Prefix } else { Rank::Exact };
        (self.host.is_some(), segments.map(rank).chain([end]).collect())
    }

    /// The same for two that take the very same requests, so that neither is more specific.
    pub(crate) fn identity(&self) -> (Option<&str>, bool, String) {
        let text = self.path.text();
        let text = match &self.path {
            Path::Named(_) => {
                let segments = text.split('/');
                let plain = |segment| if str::starts_with(segment, NAME) { ":" } else { segment };
                segments.map(plain).collect::<Vec<_>>().join("/")
            }
            _ => text.to_owned(),
        };
        (self.host.as_deref(), !self.path.is_prefix(), text)
    }
}

/// As people write it: `example.com/api/*`.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.host.as_deref().unwrap_or_default())?;
        match &self.path {
            Path::Exact(path) => f.write_str(path),
            path @ Path::Prefix(_) => write!(f, "{}/*", path.text()),
            path @ Path::Named(named) => {
                write!(f, "{}{}", path.text(), if named.is_prefix { "/*" } else { "" })
            }
            Path::Nothing => f.write_str("(internal)"),
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
    /// Those with named segments, the most specific first. They are looked at one after the other.
    named: Vec<(Named, usize)>,
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
                Path::Named(named) => {
                    paths.named.push((named.clone(), place));
                    None
                }
                Path::Nothing => None,
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
        let plain = self.find_plain(path);
        if self.named.is_empty() {
            return plain;
        }
        // Places are in the order of ranks.
        let before = |place: usize| plain.is_none_or(|plain| place < plain);
        let mut named = self.named.iter().take_while(|(_, place)| before(*place));
        named.find(|(named, _)| named.takes(path)).map(|(_, place)| *place).or(plain)
    }

    fn find_plain(&self, path: &str) -> Option<usize> {
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
    pub(crate) fn find(&self, host: Option<&str>, path: &str) -> Option<(&Pattern, &Arc<Guest>)> {
        let place = match self.routes.len() > FEW {
            true => self.index.find(host, path)?,
            false => self.routes.iter().position(|(pattern, _)| pattern.takes(host, path))?,
        };
        self.routes.get(place).map(|(pattern, guest)| (pattern, guest))
    }

    /// All guests and their patterns.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Pattern, &Arc<Guest>)> {
        self.routes.iter().map(|(pattern, guest)| (pattern, guest))
    }

    /// The guest of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Guest>> {
        self.named_with_pattern(name).map(|(_, guest)| guest)
    }

    /// The same, with what it is asked by.
    pub(crate) fn named_with_pattern(&self, name: &str) -> Option<(&Pattern, &Arc<Guest>)> {
        let place = self.names.get(name)?;
        self.routes.get(*place).map(|(pattern, guest)| (pattern, guest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(host: Option<&str>, path: Path) -> Pattern {
        Pattern { host: host.map(str::to_owned), path }
    }

    fn exact(path: &str) -> Path {
        Path::exact(path)
    }

    fn prefix(path: &str) -> Path {
        Path::prefix(path)
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
    fn a_named_segment_takes_any_one_that_is_not_empty() {
        let exact_one = exact("/users/:id");
        let below = prefix("/:tenant/files/");
        let takes = |path: &Path, asked: &str| pattern(None, path.clone()).takes(None, asked);
        for (asked, exactly, all) in [
            ("/users/7", true, false),
            ("/users/", false, false),
            ("/users", false, false),
            ("/users/7/", false, false),
            ("/users/7/x", false, false),
            ("/acme/files", false, true),
            ("/acme/files/", false, true),
            ("/acme/files/a/b", false, true),
            ("/acme/filesystem", false, false),
            ("//files", false, false),
            ("*", false, false),
        ] {
            assert_eq!(takes(&exact_one, asked), exactly, "{asked}");
            assert_eq!(takes(&below, asked), all, "{asked}");
        }
        assert_eq!(exact_one.parts("/users/7"), (vec![("id", "7")], ""));
        assert_eq!(below.parts("/acme/files/a/b"), (vec![("tenant", "acme")], "/a/b"));
        assert_eq!(prefix("/a").parts("/a/b"), (vec![], "/b"));
        assert!(matches!(exact("/a:b"), Path::Exact(_)), "a colon within a segment is a text");
    }

    #[test]
    fn a_text_ranks_before_a_name_segment_by_segment() {
        let written = [
            prefix("/"),
            exact("/:a"),
            prefix("/:a"),
            exact("/:a/:b"),
            exact("/x/:b"),
            prefix("/x"),
            exact("/:a/y"),
            exact("/x/y"),
            prefix("/:a/y"),
            exact("/x"),
        ];
        let mut patterns = written.map(|path| pattern(None, path));
        patterns.sort_by_key(|pattern| std::cmp::Reverse(pattern.rank()));
        let order: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        let expected =
            ["/x", "/x/y", "/x/:b", "/x/*", "/:a", "/:a/y", "/:a/y/*", "/:a/:b", "/:a/*", "/*"];
        assert_eq!(order, expected);
        let clash = |one, other| pattern(None, one).identity() == pattern(None, other).identity();
        assert!(clash(exact("/:a/x"), exact("/:b/x")), "names tell nothing apart");
        assert!(!clash(exact("/:a"), prefix("/:a")) && !clash(exact("/:a"), exact("/a")));
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
        let segments = ["a", "b", "ab", "", "%41", ":x", ":y"];
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
