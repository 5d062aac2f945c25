//! What servers are asked for.

use clap::ValueEnum;
use hyper::Method;

/// How many counters there are where there are many.
pub(crate) const KEYS: u32 = 10_000;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Load {
    /// GET /hello, without a store
    Hello,
    /// POST /increment, all to one counter
    Increment,
    /// POST /increment, each to one of 10,000 counters by chance
    Keys,
    /// GET /report of one counter
    Report,
}

/// One window's requests.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// Where counters are named, what their names begin with; a number follows.
    pub(crate) prefix: Option<String>,
}

impl Load {
    /// Its name as an option and in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Increment => "increment",
            Self::Keys => "keys",
            Self::Report => "report",
        }
    }

    /// Its name above a table.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Hello => "GET /hello",
            Self::Increment => "POST /increment, one key",
            Self::Keys => "POST /increment, 10,000 keys",
            Self::Report => "GET /report, one key",
        }
    }

    /// Whether it adds to counters.
    pub(crate) fn counts(self) -> bool {
        matches!(self, Self::Increment | Self::Keys)
    }

    /// The requests of a window. Its many counters are new, so that all of them begin at zero.
    pub(crate) fn target(self, window: u32) -> Target {
        let (method, path) = match self {
            Self::Hello => (Method::GET, "/hello"),
            Self::Increment | Self::Keys => (Method::POST, "/increment"),
            Self::Report => (Method::GET, "/report"),
        };
        let prefix = (self == Self::Keys).then(|| format!("bench{window}-"));
        Target { method, path, prefix }
    }
}

impl Target {
    /// The path and query of a request; `chance` chooses among many counters.
    pub(crate) fn path_and_query(&self, chance: u32) -> String {
        match &self.prefix {
            Some(prefix) => format!("{}?name={prefix}{}", self.path, chance % KEYS),
            None => self.path.to_owned(),
        }
    }

    /// The paths and queries whose reports tell what was counted.
    pub(crate) fn reports(&self) -> Vec<String> {
        match &self.prefix {
            Some(prefix) => (0..KEYS).map(|key| format!("/report?name={prefix}{key}")).collect(),
            None => vec!["/report".to_owned()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_counters_are_named_and_reported_alike() {
        let target = Load::Keys.target(7);
        assert_eq!(target.path_and_query(KEYS + 3), "/increment?name=bench7-3");
        let reports = target.reports();
        assert_eq!(reports.len(), KEYS as usize);
        assert!(reports.contains(&"/report?name=bench7-3".to_owned()));
        assert_eq!(Load::Increment.target(7).path_and_query(3), "/increment");
    }
}
