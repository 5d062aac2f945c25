//! What the admin listener is asked for.

use http::{Method, Uri};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Index,
    Live,
    Ready {
        verbose: bool,
    },
    Metrics,
    Guests,
    /// Replacing a guest, by its name as it is in the path.
    Deploy(&'a str),
    /// Version 1 of what programs ask for.
    V1(V1<'a>),
    /// Another method than these.
    NotAllowed(&'static str),
    Unknown,
}

/// What version 1 has, below `/admin/v1`. Names of guests are as they are in the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum V1<'a> {
    /// The description of all this.
    Description,
    /// Guests, and what runs of each.
    Guests,
    /// Taking a component into the store.
    Upload,
    /// One guest.
    Guest(&'a str),
    /// A new release.
    Release(&'a str),
    History(&'a str),
    RollBack(&'a str),
    Remove(&'a str),
    Hosts,
    /// Where a change runs.
    Rollout(&'a str),
}

impl<'a> Route<'a> {
    pub(super) fn of(method: &Method, uri: &'a Uri) -> Self {
        if let Some(name) = uri.path().strip_prefix("/guests/") {
            return match *method {
                Method::PUT => Self::Deploy(name),
                _ => Self::NotAllowed("PUT"),
            };
        }
        if let Some(path) = uri.path().strip_prefix("/admin/v1/") {
            return V1::of(method, path);
        }
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Self::NotAllowed("GET, HEAD");
        }
        match uri.path() {
            "/" => Self::Index,
            "/livez" => Self::Live,
            "/readyz" => Self::Ready { verbose: uri.query() == Some("verbose") },
            "/metrics" => Self::Metrics,
            "/guests" => Self::Guests,
            _ => Self::Unknown,
        }
    }

    /// Whether it changes something. Such a route needs the token wherever the listener is.
    pub(super) fn changes(self) -> bool {
        match self {
            Self::Deploy(_) => true,
            Self::V1(v1) => v1.changes(),
            Self::Index
            | Self::Live
            | Self::Ready { .. }
            | Self::Metrics
            | Self::Guests
            | Self::NotAllowed(_)
            | Self::Unknown => false,
        }
    }

    /// Whether its answer says no more than yes or no, for those who start and stop hosts.
    pub(super) fn is_probe(self) -> bool {
        matches!(self, Self::Live | Self::Ready { verbose: false })
    }
}

impl<'a> V1<'a> {
    fn of(method: &Method, path: &'a str) -> Route<'a> {
        let parts: Vec<&str> = path.split('/').collect();
        let (read, write) = ("GET, HEAD", "POST");
        let (allowed, found) = match *parts.as_slice() {
            ["openapi.json"] => (read, Self::Description),
            ["guests"] => (read, Self::Guests),
            ["components"] => (write, Self::Upload),
            ["guests", name] if *method == Method::DELETE => ("DELETE", Self::Remove(name)),
            ["guests", name] => ("GET, HEAD, DELETE", Self::Guest(name)),
            ["guests", name, "releases"] => (write, Self::Release(name)),
            ["guests", name, "history"] => (read, Self::History(name)),
            ["guests", name, "rollback"] => (write, Self::RollBack(name)),
            ["hosts"] => (read, Self::Hosts),
            ["rollouts", revision] => (read, Self::Rollout(revision)),
            _ => return Route::Unknown,
        };
        match allowed.split(", ").any(|allowed| allowed == method.as_str()) {
            true => Route::V1(found),
            false => Route::NotAllowed(allowed),
        }
    }

    fn changes(self) -> bool {
        matches!(self, Self::Upload | Self::Release(_) | Self::RollBack(_) | Self::Remove(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_that_changes_something_is_known_to_do_so() {
        let of = |method: &Method, path: &str| {
            let uri: Uri = path.parse().unwrap();
            let route = Route::of(method, &uri);
            (route != Route::Unknown && !matches!(route, Route::NotAllowed(_)), route.changes())
        };
        for path in [
            "/",
            "/livez",
            "/readyz",
            "/metrics",
            "/guests",
            "/guests/a",
            "/admin/v1/openapi.json",
            "/admin/v1/guests",
            "/admin/v1/guests/a",
            "/admin/v1/guests/a/releases",
            "/admin/v1/guests/a/history",
            "/admin/v1/guests/a/rollback",
            "/admin/v1/components",
            "/admin/v1/hosts",
            "/admin/v1/rollouts/1",
        ] {
            for method in [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE] {
                let (is_known, changes) = of(&method, path);
                let is_read = method == Method::GET || method == Method::HEAD;
                assert!(!is_known || changes != is_read, "{method} {path}");
            }
            let all = [Method::GET, Method::PUT, Method::POST, Method::DELETE];
            assert!(all.iter().any(|method| of(method, path).0), "{path}");
        }
        assert_eq!(of(&Method::GET, "/admin/v1/guests/a/b"), (false, false));
    }
}
