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
    /// Another method than these.
    NotAllowed(&'static str),
    Unknown,
}

impl<'a> Route<'a> {
    pub(super) fn of(method: &Method, uri: &'a Uri) -> Self {
        if let Some(name) = uri.path().strip_prefix("/guests/") {
            return match *method {
                Method::PUT => Self::Deploy(name),
                _ => Self::NotAllowed("PUT"),
            };
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
