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
    /// As increment, each request with a new Idempotency-Key; increment is measured beside it
    IncrementKeyed,
    /// As keys, each request with a new Idempotency-Key; keys is measured beside it
    KeysKeyed,
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
    /// Whether each request has an `Idempotency-Key` that no other request has.
    pub(crate) keyed: bool,
}

impl Load {
    /// Its name as an option and in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Increment => "increment",
            Self::Keys => "keys",
            Self::IncrementKeyed => "increment-keyed",
            Self::KeysKeyed => "keys-keyed",
            Self::Report => "report",
        }
    }

    /// Its name above a table.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Hello => "GET /hello",
            Self::Increment => "POST /increment, one counter",
            Self::Keys => "POST /increment, 10,000 counters",
            Self::IncrementKeyed => "POST /increment, one counter, a new Idempotency-Key each",
            Self::KeysKeyed => "POST /increment, 10,000 counters, a new Idempotency-Key each",
            Self::Report => "GET /report, one counter",
        }
    }

    /// The load without `Idempotency-Key` that this one is compared with; `None` for a load whose
    /// requests have no such key.
    pub(crate) const fn unkeyed(self) -> Option<Self> {
        match self {
            Self::IncrementKeyed => Some(Self::Increment),
            Self::KeysKeyed => Some(Self::Keys),
            Self::Hello | Self::Increment | Self::Keys | Self::Report => None,
        }
    }

    /// Whether it adds to counters.
    pub(crate) fn counts(self) -> bool {
        matches!(self.unkeyed().unwrap_or(self), Self::Increment | Self::Keys)
    }

    /// The requests of a window. Its many counters are new, so that all of them begin at zero.
    pub(crate) fn target(self, window: u32) -> Target {
        let (method, path) = match self {
            Self::Hello => (Method::GET, "/hello"),
            Self::Increment | Self::Keys | Self::IncrementKeyed | Self::KeysKeyed => {
                (Method::POST, "/increment")
            }
            Self::Report => (Method::GET, "/report"),
        };
        let many = matches!(self, Self::Keys | Self::KeysKeyed);
        let prefix = many.then(|| format!("bench{window}-"));
        Target { method, path, prefix, keyed: self.unkeyed().is_some() }
    }
}

/// Groups loads whose windows alternate: those with an `Idempotency-Key` follow the one without,
/// which is added where it was not asked for. Groups keep the order in which they were asked for.
pub(crate) fn groups(loads: &[Load]) -> Vec<Vec<Load>> {
    let mut groups: Vec<Vec<Load>> = Vec::new();
    for load in loads {
        let first = load.unkeyed().unwrap_or(*load);
        match groups.iter_mut().find(|group| group.first() == Some(&first)) {
            Some(group) if group.contains(load) => {}
            Some(group) => group.push(*load),
            None if first == *load => groups.push(vec![first]),
            None => groups.push(vec![first, *load]),
        }
    }
    groups
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

    #[test]
    fn a_keyed_load_differs_from_its_sibling_by_keys_alone() {
        for keyed in [Load::IncrementKeyed, Load::KeysKeyed] {
            let (with, without) = (keyed.target(7), keyed.unkeyed().unwrap().target(7));
            assert!(with.keyed && !without.keyed);
            assert!(keyed.counts());
            assert_eq!(with.path_and_query(3), without.path_and_query(3));
            assert_eq!(with.reports(), without.reports());
        }
        assert!(!Load::Hello.counts() && !Load::Report.counts());
    }

    #[test]
    fn a_keyed_load_brings_its_sibling_which_comes_first() {
        use Load::{Increment, IncrementKeyed, Keys, KeysKeyed, Report};
        assert_eq!(groups(&[IncrementKeyed]), [vec![Increment, IncrementKeyed]]);
        let asked = [KeysKeyed, Report, Keys, KeysKeyed, Increment];
        assert_eq!(groups(&asked), [vec![Keys, KeysKeyed], vec![Report], vec![Increment]]);
        assert_eq!(groups(&[Increment, IncrementKeyed]), groups(&[IncrementKeyed]));
    }
}
